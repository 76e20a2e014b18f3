"""WaveRNN's sample loop, compiled: one product with R, then the same half of a step twice (chapter 8)."""

from typing import NamedTuple, no_type_check

import numpy as np
import torch
from torch import Tensor

from sashimi_lib.models.wavernn import WaveRNN
from sashimi_lib.streaming.compiled_loop import CompiledLoop, pack_contiguous
from sashimi_lib.streaming.compiled_ops import (
    PackedLinear,
    SamplingRequest,
    add_product,
    affine,
    device_function,
    emit_token,
    jit,
    pack,
    pack_linear,
    padded,
    padded_size,
    sigmoid,
    tanh,
    to_float32_array,
)
from sashimi_lib.streaming.packed_heads import relu


class Half(NamedTuple):
    """What either half has of its own: the rows of I* and of the bias, by gate, and its two output layers.

    The inputs are c_{t-1}, f_{t-1} and c_t, with zeros where c_t is not heard.
    """

    heard: np.ndarray  # (3 inputs, 3 gates, half)
    bias: np.ndarray  # (3 gates, half)
    first: PackedLinear
    second: PackedLinear


class WaveRNNLoop(CompiledLoop):
    """The weights of a WaveRNN: packed once, and zeros left out where there are many."""

    def __init__(self, model: WaveRNN) -> None:
        if model.config.d_conditioning:
            raise ValueError(
                f"model must take no conditioning, got one with d_condition={model.config.d_conditioning}"
            )
        self.half, self.levels, self.codes = model.config.d_hidden // 2, model.config.levels, 2
        self.dtype = model.bias.dtype
        halves = np.split(to_float32_array(model.R.weight), 2, axis=1)
        R = pack(np.concatenate([padded(columns, 1) for columns in halves], axis=1))
        heard = to_float32_array(model.I_star).reshape(3, 2, self.half, 3).transpose(1, 3, 0, 2)
        bias = to_float32_array(model.bias).reshape(3, 2, self.half).transpose(1, 0, 2)
        coarse, fine = (model.O1, model.O2), (model.O3, model.O4)
        parts = (
            Half(
                np.ascontiguousarray(heard[s]),
                np.ascontiguousarray(bias[s]),
                pack_linear(first),
                pack_linear(second),
            )
            for s, (first, second) in enumerate((coarse, fine))
        )
        self.R, self.coarse, self.fine = pack_contiguous((R, *parts))

    def begin(self, state: Tensor) -> np.ndarray:
        """h, (batch, 2, room): each half begins where a vector register does."""
        return padded(to_float32_array(state.unflatten(1, (2, -1))), 2)

    def end(self, memory: np.ndarray) -> Tensor:
        """h, (batch, d_hidden)."""
        return torch.from_numpy(memory[..., : self.half].copy()).flatten(1).to(self.dtype)

    def run(self, codes: np.ndarray, memory: np.ndarray, request: SamplingRequest) -> bool:
        """Write codes after the first, which are there already."""
        return _loop(codes, memory, request, self.R, self.coarse, self.fine, self.levels)


@jit
@no_type_check
def _loop(codes, h, request, R, coarse, fine, levels):
    batch, half = len(h), coarse.bias.shape[1]
    x = np.zeros((batch, 3), np.float32)  # c_{t-1}, f_{t-1}, c_t, in [-1, 1]
    product = np.empty((batch, padded_size(6 * half)), np.float32)
    hidden = np.empty((batch, padded_size(half)), np.float32)
    logits = np.empty((batch, padded_size(levels)), np.float32)
    scale = np.float32(2 / (levels - 1))
    for t in range(codes.shape[1] - 1):
        for b in range(batch):
            x[b, 0], x[b, 1] = _scaled(codes[b, t, 0], scale), _scaled(codes[b, t, 1], scale)
        product[:] = 0
        add_product(R, h.reshape(batch, -1), product)
        _half(coarse, x, product, h[:, 0], 0, hidden, logits)
        if not emit_token(request, t, 0, logits, levels, codes):
            return False
        for b in range(batch):
            x[b, 2] = _scaled(codes[b, t + 1, 0], scale)  # heard by the fine half, in this step
        _half(fine, x, product, h[:, 1], half, hidden, logits)
        if not emit_token(request, t, 1, logits, levels, codes):
            return False
    return True


@device_function
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
    affine(part.first, h, hidden)
    relu(hidden)
    affine(part.second, hidden, logits)


@device_function
@no_type_check
def _scaled(code, scale):
    return np.float32(code) * scale - np.float32(1)
