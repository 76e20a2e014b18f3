"""WaveRNN's sample loop, compiled: one product with R, then the same half of a step twice (chapter 8)."""

from typing import NamedTuple, no_type_check

import numpy as np
import torch
from torch import Tensor, nn

from sashimi_lib.models.wavernn import WaveRNN
from sashimi_lib.streaming.kernels import Matrix, choose, compiled, multiply, pack, room, sigmoid, tanh


class Layer(NamedTuple):
    """A linear layer: a matrix as `pack` makes it, and the bias."""

    matrix: Matrix
    bias: np.ndarray


class Half(NamedTuple):
    """What either half has of its own: the rows of I* and of the bias, by gate, and its two output layers.

    The inputs are c_{t-1}, f_{t-1} and c_t, with zeros where c_t is not heard.
    """

    heard: np.ndarray  # (3 inputs, 3 gates, half)
    bias: np.ndarray  # (3 gates, half)
    first: Layer
    second: Layer


class WaveRNNLoop:
    """The weights of a WaveRNN as the loop wants them: packed once, and zeros left out where there are
    many."""

    def __init__(self, model: WaveRNN) -> None:
        if model.config.d_condition:
            raise ValueError(
                f"model must be told nothing, got a WaveRNN with d_condition={model.config.d_condition}"
            )
        self.half, self.levels = model.config.d_hidden // 2, model.config.levels
        halves = np.split(_numpy(model.R.weight), 2, axis=1)
        gap = room(self.half) - self.half  # each half of h begins where a vector register does
        self.R = pack(np.concatenate([np.pad(columns, ((0, 0), (0, gap))) for columns in halves], axis=1))
        heard = _numpy(model.I_star).reshape(3, 2, self.half, 3).transpose(1, 3, 0, 2)
        bias = _numpy(model.bias).reshape(3, 2, self.half).transpose(1, 0, 2)
        coarse, fine = (model.O1, model.O2), (model.O3, model.O4)
        self.coarse, self.fine = (
            Half(np.ascontiguousarray(heard[s]), np.ascontiguousarray(bias[s]), _layer(first), _layer(second))
            for s, (first, second) in enumerate((coarse, fine))
        )

    def __call__(
        self, code: Tensor, state: Tensor, uniform: Tensor, temperature: float, top_p: float
    ) -> tuple[Tensor, Tensor]:
        """A code for each uniform number, (samples, 2, batch) -> (batch, samples, 2), and the last state."""
        before = code.numpy()
        h = np.zeros((len(before), 2, room(self.half)), np.float32)
        h[..., : self.half] = state.unflatten(1, (2, -1)).numpy()
        codes = np.empty((len(before), len(uniform), 2), np.int64)
        weights = self.R, self.coarse, self.fine, self.levels
        if not _loop(codes, before, h, uniform.numpy(), temperature, top_p, *weights):
            raise ValueError("logits must be finite: the state has blown up")
        return torch.from_numpy(codes), torch.from_numpy(h[..., : self.half]).flatten(1).to(state.dtype)


@compiled
@no_type_check
def _loop(codes, before, h, uniform, temperature, top_p, R, coarse, fine, levels):
    batch, half = len(h), coarse.bias.shape[1]
    x = np.zeros((batch, 3), np.float32)  # c_{t-1}, f_{t-1}, c_t, in [-1, 1]
    product = np.empty((batch, room(6 * half)), np.float32)
    hidden = np.empty((batch, room(half)), np.float32)
    logits = np.empty((batch, room(levels)), np.float32)
    buffer = np.empty(levels, np.float32)
    scale = np.float32(2 / (levels - 1))
    for b in range(batch):
        x[b, 0], x[b, 1] = _scaled(before[b, 0], scale), _scaled(before[b, 1], scale)
    for t in range(len(uniform)):
        multiply(R, h.reshape(batch, -1), product)
        for byte in range(2):
            if byte == 0:  # the two may be of different types: one with zeros left out, one without
                _half(coarse, x, product, h[:, 0], 0, hidden, logits)
            else:
                _half(fine, x, product, h[:, 1], half, hidden, logits)
            for b in range(batch):
                code = choose(logits[b, :levels], uniform[t, byte, b], temperature, top_p, buffer)
                if code < 0:
                    return False
                codes[b, t, byte] = code
                x[b, 2] = _scaled(code, scale)  # heard by the fine half, in this step
        for b in range(batch):
            x[b, 0], x[b, 1] = _scaled(codes[b, t, 0], scale), x[b, 2]
    return True


@compiled
@no_type_check
def _half(part, x, product, h, first, hidden, logits):
    """One half of h by the gates, from R's product, and the logits of its byte."""
    one, half = np.float32(1), part.bias.shape[1]
    for b in range(len(x)):
        c, f, now = x[b]
        u, r, e = product[b, first:], product[b, first + 2 * half :], product[b, first + 4 * half :]
        heard, bias = part.heard, part.bias
        for i in range(half):
            to_u = heard[0, 0, i] * c + heard[1, 0, i] * f + heard[2, 0, i] * now + bias[0, i]
            to_r = heard[0, 1, i] * c + heard[1, 1, i] * f + heard[2, 1, i] * now + bias[1, i]
            to_e = heard[0, 2, i] * c + heard[1, 2, i] * f + heard[2, 2, i] * now + bias[2, i]
            gate = sigmoid(u[i] + to_u)
            h[b, i] = gate * h[b, i] + (one - gate) * tanh(sigmoid(r[i] + to_r) * e[i] + to_e)
    multiply(part.first.matrix, h, hidden)
    for b in range(len(x)):
        for i in range(half):
            hidden[b, i] = max(hidden[b, i] + part.first.bias[i], np.float32(0))
    multiply(part.second.matrix, hidden, logits)
    for b in range(len(x)):
        for i in range(len(part.second.bias)):
            logits[b, i] += part.second.bias[i]


@compiled
@no_type_check
def _scaled(code, scale):
    return np.float32(code) * scale - np.float32(1)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()


def _layer(linear: nn.Linear) -> Layer:
    return Layer(pack(_numpy(linear.weight)), _numpy(linear.bias))
