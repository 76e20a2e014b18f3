"""What a compiled sample loop is made of: products, gates and draws on plain arrays, compiled by Numba.

Float32 throughout. Sums may be taken in any order, which is what lets the compiler use a core's vector unit;
NaN and infinity keep their meaning.
"""

import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import astuple, fields
from typing import Any, NamedTuple, no_type_check

import numpy as np
from numba import njit, types
from numba.extending import overload
from torch import Tensor, nn

from sashimi_lib.models.sampling import SamplingConfig
from sashimi_lib.streaming.compile_cache import keep_on_disk
from sashimi_lib.streaming.vectors import LANES, broadcast, load, store

JIT_OPTIONS: dict[str, Any] = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, "error_model": "numpy"}

# What a loop is made of is called by compiled code alone, without the wrappers that take as long to compile.
device_function = njit(**{**JIT_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True})


def jit(loop: Callable[..., Any]) -> Any:
    """A loop, to be called from Python. Its machine code is kept on disk."""
    return keep_on_disk(njit(**JIT_OPTIONS, nogil=True)(loop))


UNROLL = 4  # columns at once, each into a sum of its own, so that none waits for the one before it
DENSE = 0.25  # the share of blocks from which on it is faster not to skip the others


class BlockSparse(NamedTuple):
    """A matrix by its blocks of 16 rows of one column that are not all zero.

    Those of rows 16 g to 16 g + 15 lie from ``start[g]`` to ``start[g + 1]``, each with its ``column``; zeros
    fill them up to a multiple of four.
    """

    start: np.ndarray
    column: np.ndarray
    values: np.ndarray


Matrix = np.ndarray | BlockSparse


class PackedLinear(NamedTuple):
    """A linear layer: a matrix as `pack` makes it, and the bias, with zeros up to `padded_size`."""

    matrix: Matrix
    bias: np.ndarray


@jit
@no_type_check
def padded_size(width: int) -> int:
    """The width of a buffer for a vector that is multiplied by, or comes of a product: a multiple of 16."""
    return width + -width % LANES


def to_float32_array(x: Tensor) -> np.ndarray:
    """A copy of a tensor for compiled code: float32, in the order of its axes."""
    return np.array(x.detach().float().cpu().numpy(), order="C")


def padded(x: np.ndarray, axis: int) -> np.ndarray:
    """An array with zeros up to `padded_size` of one axis."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, padded_size(x.shape[axis]) - x.shape[axis])
    return np.pad(x.astype(np.float32), widths)


def dense(weight: np.ndarray) -> np.ndarray:
    """A matrix (outputs, inputs) in bands of 16 rows, each column by column: (bands, inputs, 16), with zeros
    up to `padded_size` of both. A product reads it once from its beginning to its end."""
    weight = padded(padded(weight, 0), 1)
    return np.ascontiguousarray(weight.reshape(-1, LANES, weight.shape[1]).transpose(0, 2, 1))


def pack(weight: np.ndarray) -> Matrix:
    """A matrix (outputs, inputs) as `multiply` wants it: `dense`, or `BlockSparse` where few of them are not
    zero."""
    bands = dense(weight)
    used = np.any(bands, axis=2)
    if used.mean() > DENSE:
        return bands
    column = [np.flatnonzero(row) for row in used]
    column = [np.pad(where, (0, -len(where) % UNROLL), constant_values=-1) for where in column]
    values = [np.where(where[:, None] < 0, 0, band[where]) for where, band in zip(column, bands, strict=True)]
    start = np.cumsum([0, *map(len, column)])
    flat = np.concatenate(column).clip(min=0)
    return BlockSparse(
        start.astype(np.int64), flat.astype(np.int64), np.concatenate(values).astype(np.float32)
    )


def pack_linear(linear: nn.Linear) -> PackedLinear:
    """A linear layer as `affine` wants it."""
    return PackedLinear(pack(to_float32_array(linear.weight)), padded(to_float32_array(linear.bias), 0))


def add_product(matrix: Matrix, x: np.ndarray, y: np.ndarray) -> None:
    """``y[b] += W x[b]`` for every row of a batch, W as `pack` made it. For compiled code to call."""
    raise NotImplementedError


@overload(add_product, jit_options=JIT_OPTIONS)
@no_type_check
def _add_product(matrix, x, y):
    return _dense if isinstance(matrix, types.Array) else _blocks


@no_type_check
def _dense(matrix, x, y):
    batch = x.shape[0]
    fours = batch - batch % 4
    for g in range(matrix.shape[0]):
        band = matrix[g]
        for b in range(0, fours, 4):  # four sequences hear a column that is read once
            s0, s1, s2, s3 = load(y[b], g), load(y[b + 1], g), load(y[b + 2], g), load(y[b + 3], g)
            for j in range(matrix.shape[1]):
                column = load(band, j)
                s0 += column * broadcast(x[b, j])
                s1 += column * broadcast(x[b + 1, j])
                s2 += column * broadcast(x[b + 2, j])
                s3 += column * broadcast(x[b + 3, j])
            store(s0, y[b], g)
            store(s1, y[b + 1], g)
            store(s2, y[b + 2], g)
            store(s3, y[b + 3], g)
        for b in range(fours, batch):  # one sequence hears four columns at once
            s0, s1, s2, s3 = broadcast(0), broadcast(0), broadcast(0), load(y[b], g)
            for j in range(0, matrix.shape[1], 4):
                s0 += load(band, j) * broadcast(x[b, j])
                s1 += load(band, j + 1) * broadcast(x[b, j + 1])
                s2 += load(band, j + 2) * broadcast(x[b, j + 2])
                s3 += load(band, j + 3) * broadcast(x[b, j + 3])
            store(s0 + s1 + s2 + s3, y[b], g)


@no_type_check
def _blocks(matrix, x, y):
    start, column, values = matrix
    for g in range(len(start) - 1):
        for b in range(x.shape[0]):
            s0, s1, s2, s3 = broadcast(0), broadcast(0), broadcast(0), load(y[b], g)
            for k in range(start[g], start[g + 1], 4):
                s0 += load(values, k) * broadcast(x[b, column[k]])
                s1 += load(values, k + 1) * broadcast(x[b, column[k + 1]])
                s2 += load(values, k + 2) * broadcast(x[b, column[k + 2]])
                s3 += load(values, k + 3) * broadcast(x[b, column[k + 3]])
            store(s0 + s1 + s2 + s3, y[b], g)


@device_function
@no_type_check
def affine(layer, x, y):
    """``y[b] = W x[b] + bias`` for every row of a batch."""
    for b in range(len(x)):
        for i in range(len(layer.bias)):
            y[b, i] = layer.bias[i]
    add_product(layer.matrix, x, y)


@njit(**JIT_OPTIONS, inline="always")
@no_type_check
def exp(x):
    """``e^x`` to 1e-7 of itself, between 1e-38 and 1e38, in operations that go 16 at a time."""
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = (x - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)  # x = n ln 2 + r, |r| < 0.35
    p = np.float32(1 / 5040)
    for k in (720, 120, 24, 6, 2, 1, 1):
        p = p * r + np.float32(1 / k)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)  # times 2^n


@njit(**JIT_OPTIONS, inline="always")
@no_type_check
def sigmoid(x):
    """``1 / (1 + e^-x)``."""
    return np.float32(1) / (np.float32(1) + exp(-x))


@njit(**JIT_OPTIONS, inline="always")
@no_type_check
def tanh(x):
    """``(e^2x - 1) / (e^2x + 1)``."""
    return np.float32(2) * sigmoid(np.float32(2) * x) - np.float32(1)


@njit(**JIT_OPTIONS, inline="always")
@no_type_check
def gelu(x):
    """``x (1 + erf(x / sqrt 2)) / 2``, erf to 2e-7 by a polynomial in ``1 / (1 + 0.33 |x|)`` and an
    exponential (Abramowitz and Stegun, 7.1.26)."""
    z = abs(x) * np.float32(0.70710678)
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * z)
    p = np.float32(1.061405429)
    for c in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        p = p * t + np.float32(c)
    tail = np.float32(0.5) * p * t * exp(-z * z)
    return x * tail if x < 0 else x - x * tail


Options: Any = namedtuple("Options", [option.name for option in fields(SamplingConfig)])  # type: ignore[misc]


def options_of(sampling: SamplingConfig) -> Any:
    """The options as compiled code takes them: numbers of one type, infinity for a bound that is None.

    >>> options_of(SamplingConfig(top_p=0.9))
    Options(temperature=1.0, top_p=0.9, top_k=inf)
    """
    return Options(*(math.inf if value is None else float(value) for value in astuple(sampling)))


@device_function
@no_type_check
def sample_token(logits, uniform, options, p):
    """The code that `sashimi_lib.models.sampling.sample_token` draws by this random number; -1 where the
    logits are not finite. ``p`` is a buffer as long as ``logits``."""
    top, check = logits[0], np.float32(0)
    for i in range(len(logits)):
        top = max(top, logits[i])
        check += np.float32(0) * logits[i]
    if check != 0:  # NaN as well
        return -1
    scale = np.float32(1 / options.temperature)
    for i in range(len(logits)):
        p[i] = exp((logits[i] - top) * scale)
    if options.top_k < len(p):
        _keep_top_k(p, logits, int(options.top_k))
    if options.top_p < 1:
        _keep_top_p(p, options.top_p)
    total = 0.0
    for i in range(len(p)):
        total += p[i]
    bound, cumulative = uniform * total, 0.0
    for i in range(len(p)):
        cumulative += p[i]
        if cumulative > bound:
            return i
    return len(p) - 1


@device_function
@no_type_check
def _keep_top_k(p, logits, top_k):
    """Zero all but the likeliest codes, ``top_k`` of them."""
    for i in _by_likelihood(logits)[top_k:]:
        p[i] = 0


@device_function
@no_type_check
def _keep_top_p(p, top_p):
    """Zero what is outside the smallest set of likeliest codes that reaches ``top_p``."""
    order, total, before = _by_likelihood(p), 0.0, 0.0
    for i in range(len(p)):
        total += p[i]
    for i in order:
        here = p[i]
        if before >= top_p * total:
            p[i] = 0
        before += here


@device_function
@no_type_check
def _by_likelihood(x):
    """Codes from the likeliest down; equal ones by index, as `sashimi_lib.models.sampling.token_probs`."""
    return np.argsort(-x, kind="mergesort")


class SamplingRequest(NamedTuple):
    """What a loop is asked for: codes drawn by these random numbers, or the logits of codes that are given.

    Of ``uniform`` and ``given`` one has a number for each code and the other none.
    """

    uniform: np.ndarray  # (batch, samples, codes)
    options: Any  # `options_of` a `SamplingConfig`
    given: np.ndarray  # (batch, samples, codes)
    logits: np.ndarray  # (batch, samples, codes, levels): written where codes are given


@device_function
@no_type_check
def emit_token(request, t, k, logits, levels, codes):
    """The k-th code of sample t, for every row of a batch: drawn from its logits, or as given, and written as
    ``codes[b, t + 1, k]``. False where logits are not finite."""
    buffer = np.empty(levels, np.float32)
    for b in range(len(codes)):
        if request.given.shape[1]:
            for i in range(levels):
                request.logits[b, t, k, i] = logits[b, i]
            codes[b, t + 1, k] = request.given[b, t, k]
        else:
            uniform = request.uniform[b, t, k]
            codes[b, t + 1, k] = sample_token(logits[b, :levels], uniform, request.options, buffer)
            if codes[b, t + 1, k] < 0:
                return False
    return True
