"""Operations of compiled sample loops: matrix products, activations and sampling on arrays, by Numba.

All arithmetic is float32. The compiler may reorder sums, so that it can use vector instructions; NaN and
infinity keep their meaning.
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
from sashimi_lib.streaming.compile_cache import cache_on_disk
from sashimi_lib.streaming.vectors import LANES, broadcast, load, store

JIT_OPTIONS: dict[str, Any] = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, "error_model": "numpy"}

# Only compiled code calls these functions, so they need no wrappers, which would take as long to compile.
device_function = njit(**{**JIT_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True})


def jit(loop: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, without the GIL, and cache its machine code on disk."""
    return cache_on_disk(njit(**JIT_OPTIONS, nogil=True)(loop))


UNROLL = 4  # columns that are multiplied together, each into a separate sum, so that none waits for another
MAX_SPARSE_DENSITY = 0.25  # with a larger fraction of nonzero blocks the dense product is faster


class BlockSparse(NamedTuple):
    """A sparse matrix: its nonzero blocks, of 16 rows and one column.

    Blocks ``start[g]`` to ``start[g + 1] - 1`` are those of rows 16 g to 16 g + 15; ``column`` and ``values``
    have an entry for each. Blocks of zeros pad their number to a multiple of four.
    """

    start: np.ndarray
    column: np.ndarray
    values: np.ndarray


Matrix = np.ndarray | BlockSparse


class PackedLinear(NamedTuple):
    """A linear layer: the matrix as `pack_matrix` returns it, and the bias, padded to `padded_size`."""

    matrix: Matrix
    bias: np.ndarray


@jit
@no_type_check
def padded_size(width: int) -> int:
    """Return ``width`` rounded up to a multiple of 16: the size of an input or output of `add_product`."""
    return width + -width % LANES


def to_float32_array(x: Tensor) -> np.ndarray:
    """Return a copy of a tensor as a C-contiguous float32 array."""
    return np.array(x.detach().float().cpu().numpy(), order="C")


def pad_axis(x: np.ndarray, axis: int) -> np.ndarray:
    """Pad one axis of an array with zeros to `padded_size`; the result is float32."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, padded_size(x.shape[axis]) - x.shape[axis])
    return np.pad(x.astype(np.float32), widths)


def pack_dense(weight: np.ndarray) -> np.ndarray:
    """Return a matrix (outputs, inputs) in bands of 16 rows, each column by column: (bands, inputs, 16).

    Both axes are padded to `padded_size`. A product reads the result sequentially.
    """
    weight = pad_axis(pad_axis(weight, 0), 1)
    return np.ascontiguousarray(weight.reshape(-1, LANES, weight.shape[1]).transpose(0, 2, 1))


def pack_matrix(weight: np.ndarray) -> Matrix:
    """Return a matrix (outputs, inputs) for `add_product`: `BlockSparse` if few blocks of 16 rows of a column
    are nonzero, else as `pack_dense`."""
    bands = pack_dense(weight)
    nonzero = np.any(bands, axis=2)
    if nonzero.mean() > MAX_SPARSE_DENSITY:
        return bands
    columns = [np.flatnonzero(row) for row in nonzero]
    columns = [np.pad(column, (0, -len(column) % UNROLL), constant_values=-1) for column in columns]
    values = [
        np.where(column[:, None] < 0, 0, band[column]) for column, band in zip(columns, bands, strict=True)
    ]
    start = np.cumsum([0, *map(len, columns)])
    flat = np.concatenate(columns).clip(min=0)
    return BlockSparse(
        start.astype(np.int64), flat.astype(np.int64), np.concatenate(values).astype(np.float32)
    )


def pack_linear(linear: nn.Linear) -> PackedLinear:
    """Return a linear layer for `affine`."""
    return PackedLinear(
        pack_matrix(to_float32_array(linear.weight)), pad_axis(to_float32_array(linear.bias), 0)
    )


def add_product(matrix: Matrix, x: np.ndarray, y: np.ndarray) -> None:
    """Add ``W x[b]`` to ``y[b]`` for every row b, with W from `pack_matrix`. Called by compiled code."""
    raise NotImplementedError


@overload(add_product, jit_options=JIT_OPTIONS)
@no_type_check
def _add_product(matrix, x, y):
    return _add_dense_product if isinstance(matrix, types.Array) else _add_sparse_product


@no_type_check
def _add_dense_product(matrix, x, y):
    batch = x.shape[0]
    fours = batch - batch % 4
    for g in range(matrix.shape[0]):
        band = matrix[g]
        for b in range(0, fours, 4):  # four sequences share each column that is read
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
        for b in range(fours, batch):  # four columns at a time for each other sequence
            s0, s1, s2, s3 = broadcast(0), broadcast(0), broadcast(0), load(y[b], g)
            for j in range(0, matrix.shape[1], 4):
                s0 += load(band, j) * broadcast(x[b, j])
                s1 += load(band, j + 1) * broadcast(x[b, j + 1])
                s2 += load(band, j + 2) * broadcast(x[b, j + 2])
                s3 += load(band, j + 3) * broadcast(x[b, j + 3])
            store(s0 + s1 + s2 + s3, y[b], g)


@no_type_check
def _add_sparse_product(matrix, x, y):
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
def affine(layer: PackedLinear, x: np.ndarray, y: np.ndarray) -> None:
    """Write ``y[b] = W x[b] + bias`` for every row b of a batch."""
    for b in range(len(x)):
        for i in range(len(layer.bias)):
            y[b, i] = layer.bias[i]
    add_product(layer.matrix, x, y)


@njit(**JIT_OPTIONS, inline="always")
@no_type_check
def exp(x: np.float32) -> np.float32:
    """Return ``e^x`` to a relative 1e-7, between 1e-38 and 1e38, by operations that can be vectorized."""
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = (x - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)  # x = n ln 2 + r, |r| < 0.35
    p = np.float32(1 / 5040)
    for k in (720, 120, 24, 6, 2, 1, 1):
        p = p * r + np.float32(1 / k)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)  # times 2^n


@njit(**JIT_OPTIONS, inline="always")
@no_type_check
def sigmoid(x: np.float32) -> np.float32:
    """Return ``1 / (1 + e^-x)``."""
    return np.float32(1) / (np.float32(1) + exp(-x))


@njit(**JIT_OPTIONS, inline="always")
@no_type_check
def tanh(x: np.float32) -> np.float32:
    """Return ``(e^2x - 1) / (e^2x + 1)``."""
    return np.float32(2) * sigmoid(np.float32(2) * x) - np.float32(1)


@njit(**JIT_OPTIONS, inline="always")
@no_type_check
def gelu(x: np.float32) -> np.float32:
    """Return ``x (1 + erf(x / sqrt 2)) / 2``, with erf to 2e-7 by a polynomial in ``1 / (1 + 0.33 |x|)`` and
    an exponential (Abramowitz and Stegun, 7.1.26)."""
    z = abs(x) * np.float32(0.70710678)
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * z)
    p = np.float32(1.061405429)
    for c in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        p = p * t + np.float32(c)
    tail = np.float32(0.5) * p * t * exp(-z * z)
    return x * tail if x < 0 else x - x * tail


_OPTIONS = [option.name for option in fields(SamplingConfig)]
PackedSampling: Any = namedtuple("PackedSampling", _OPTIONS)  # type: ignore[misc]


def pack_sampling(sampling: SamplingConfig) -> Any:
    """Return sampling options for compiled code: all of them floats, with infinity for None.

    >>> pack_sampling(SamplingConfig(top_p=0.9))
    PackedSampling(temperature=1.0, top_p=0.9, top_k=inf)
    """
    return PackedSampling(*(math.inf if value is None else float(value) for value in astuple(sampling)))


@device_function
@no_type_check
def sample_token(logits: np.ndarray, uniform: float, sampling: Any, p: np.ndarray) -> int:
    """Return the code that `sashimi_lib.models.sampling.sample_token` samples with this random number, or -1
    if the logits are not finite. ``p`` is a buffer as long as ``logits``."""
    top, check = logits[0], np.float32(0)
    for i in range(len(logits)):
        top = max(top, logits[i])
        check += np.float32(0) * logits[i]
    if check != 0:  # NaN as well
        return -1
    scale = np.float32(1 / sampling.temperature)
    for i in range(len(logits)):
        p[i] = exp((logits[i] - top) * scale)
    if sampling.top_k < len(p):
        _keep_top_k(p, logits, int(sampling.top_k))
    if sampling.top_p < 1:
        _keep_top_p(p, sampling.top_p)
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
    """Set the probabilities of all but the ``top_k`` most likely codes to zero."""
    for i in _by_likelihood(logits)[top_k:]:
        p[i] = 0


@device_function
@no_type_check
def _keep_top_p(p, top_p):
    """Set probabilities to zero outside of the smallest set of most likely codes that reaches ``top_p``."""
    order, total, before = _by_likelihood(p), 0.0, 0.0
    for i in range(len(p)):
        total += p[i]
    for i in order:
        p_i = p[i]
        if before >= top_p * total:
            p[i] = 0
        before += p_i


@device_function
@no_type_check
def _by_likelihood(x):
    """Return codes from the most likely to the least; ties by index, as in
    `sashimi_lib.models.sampling.token_probs`."""
    return np.argsort(-x, kind="mergesort")


class SamplingRequest(NamedTuple):
    """The request to a compiled loop: sample codes with random numbers, or compute teacher-forced logits.

    One of ``uniform`` and ``forced`` has ``samples`` entries along its second axis, and the other has none.
    """

    uniform: np.ndarray  # (batch, samples, n_codes): random numbers in [0, 1)
    sampling: Any  # `pack_sampling` of a `SamplingConfig`
    forced: np.ndarray  # (batch, samples, n_codes): codes to take instead of sampling
    logits: np.ndarray  # (batch, samples, n_codes, levels): output of the teacher-forced pass


@device_function
@no_type_check
def emit_token(
    request: SamplingRequest, t: int, k: int, logits: np.ndarray, levels: int, codes: np.ndarray
) -> bool:
    """Write code k of sample t, sampled from the logits or forced, as ``codes[b, t + 1, k]`` for every row b.

    Returns False if logits are not finite. Forced codes have their logits written to the request.
    """
    buffer = np.empty(levels, np.float32)
    for b in range(len(codes)):
        if request.forced.shape[1]:
            for i in range(levels):
                request.logits[b, t, k, i] = logits[b, i]
            codes[b, t + 1, k] = request.forced[b, t, k]
        else:
            uniform = request.uniform[b, t, k]
            codes[b, t + 1, k] = sample_token(logits[b, :levels], uniform, request.sampling, buffer)
            if codes[b, t + 1, k] < 0:
                return False
    return True
