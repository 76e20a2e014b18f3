"""WaveRNN's compiled sample loop: one product with R, then the coarse and the fine half (chapter 8)."""

from typing import NamedTuple, no_type_check

import numpy as np
import torch
from torch import Tensor

from sashimi_lib.models.wavernn import WaveRNN
from sashimi_lib.streaming.base import check_unconditional
from sashimi_lib.streaming.compiled_loop import CompiledLoop, pack_contiguous
from sashimi_lib.streaming.compiled_ops import (
    PackedLinear,
    SamplingRequest,
    add_product,
    affine,
    device_function,
    emit_token,
    jit,
    pack_linear,
    pack_matrix,
    pad_axis,
    padded_size,
    sigmoid,
    tanh,
    to_float32_array,
)
from sashimi_lib.streaming.packed_heads import relu


class PackedHalf(NamedTuple):
    """The weights of the coarse or the fine half: its rows of I* and of the bias, and its output layers.

    The inputs are c_{t-1}, f_{t-1} and c_t; the weights of c_t are zeros in the coarse half.
    """

    I_star: np.ndarray  # (3 inputs, 3 gates, d_half)
    bias: np.ndarray  # (3 gates, d_half)
    output_1: PackedLinear  # O1 or O3
    output_2: PackedLinear  # O2 or O4


class WaveRNNLoop(CompiledLoop):
    """A compiled loop of a WaveRNN. A sparse matrix is multiplied without its zero blocks."""

    def __init__(self, model: WaveRNN) -> None:
        check_unconditional(model)
        self.d_half, self.levels, self.n_codes = model.config.d_hidden // 2, model.config.levels, 2
        self.dtype = model.bias.dtype
        halves = np.split(to_float32_array(model.R.weight), 2, axis=1)
        R = pack_matrix(np.concatenate([pad_axis(columns, 1) for columns in halves], axis=1))
        I_star = to_float32_array(model.I_star).reshape(3, 2, self.d_half, 3).transpose(1, 3, 0, 2)
        bias = to_float32_array(model.bias).reshape(3, 2, self.d_half).transpose(1, 0, 2)
        outputs = (model.O1, model.O2), (model.O3, model.O4)
        coarse, fine = (
            PackedHalf(
                np.ascontiguousarray(I_star[s]), np.ascontiguousarray(bias[s]), *map(pack_linear, outputs[s])
            )
            for s in range(2)
        )
        self.R, self.coarse, self.fine = pack_contiguous((R, coarse, fine))

    def pack_state(self, state: Tensor) -> np.ndarray:
        """Return h as (batch, 2, padded_size): each half starts at a multiple of 16."""
        return pad_axis(to_float32_array(state.unflatten(1, (2, -1))), 2)

    def unpack_state(self, state: np.ndarray) -> Tensor:
        """Return h as (batch, d_hidden)."""
        return torch.from_numpy(state[..., : self.d_half].copy()).flatten(1).to(self.dtype)

    def run(self, codes: np.ndarray, state: np.ndarray, request: SamplingRequest) -> bool:
        """Fill ``codes`` after the first sample, which is the input."""
        return _loop(codes, state, request, self.R, self.coarse, self.fine, self.levels)


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
            x[b, 2] = _scaled(codes[b, t + 1, 0], scale)  # c_t, an input of the fine half
        _half(fine, x, product, h[:, 1], half, hidden, logits)
        if not emit_token(request, t, 1, logits, levels, codes):
            return False
    return True


@device_function
@no_type_check
def _half(part, x, product, h, first, hidden, logits):
    """Update one half of h from the product with R, and compute the logits of its byte."""
    one, half = np.float32(1), part.bias.shape[1]
    for b in range(len(x)):
        c_prev, f_prev, c = x[b]
        u, r, e = product[b, first:], product[b, first + 2 * half :], product[b, first + 4 * half :]
        I, bias = part.I_star, part.bias
        for i in range(half):
            u_x = I[0, 0, i] * c_prev + I[1, 0, i] * f_prev + I[2, 0, i] * c + bias[0, i]
            r_x = I[0, 1, i] * c_prev + I[1, 1, i] * f_prev + I[2, 1, i] * c + bias[1, i]
            e_x = I[0, 2, i] * c_prev + I[1, 2, i] * f_prev + I[2, 2, i] * c + bias[2, i]
            gate = sigmoid(u[i] + u_x)
            h[b, i] = gate * h[b, i] + (one - gate) * tanh(sigmoid(r[i] + r_x) * e[i] + e_x)
    affine(part.output_1, h, hidden)
    relu(hidden)
    affine(part.output_2, hidden, logits)


@device_function
@no_type_check
def _scaled(code, scale):
    return np.float32(code) * scale - np.float32(1)
