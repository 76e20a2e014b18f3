"""What a compiled sample loop is made of: products, gates and draws on plain arrays, compiled by Numba.

Float32 throughout. Sums may be taken in any order, which is what lets the compiler use a core's vector unit;
NaN and infinity keep their meaning.
"""

from typing import Any, NamedTuple, no_type_check

import numpy as np
from numba import njit, types
from numba.extending import overload

_HOW: dict[str, Any] = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, "error_model": "numpy"}

# Compiled code is kept beside its source, and is as old as that file alone: after a change here, remove
# __pycache__.
compiled = njit(**_HOW, cache=True, nogil=True)

LANES = 16  # rows of a block of a sparse matrix: the floats of one vector register
UNROLL = 4  # columns that a product takes at once, so that its result is read and written less often
DENSE = 0.25  # the share of blocks from which on it is faster not to skip the others


class Blocks(NamedTuple):
    """A matrix by its blocks of 16 rows of one column that are not all zero.

    Those of rows 16 g to 16 g + 15 lie from ``start[g]`` to ``start[g + 1]``, each with its ``column``; zeros
    fill them up to a multiple of four.
    """

    start: np.ndarray
    column: np.ndarray
    values: np.ndarray


Matrix = np.ndarray | Blocks


@compiled
@no_type_check
def room(width: int) -> int:
    """The width of a buffer for a vector that is multiplied by, or comes of a product: a multiple of 16."""
    return width + -width % LANES


def pack(weight: np.ndarray) -> Matrix:
    """A matrix (outputs, inputs) as `multiply` wants it, with zeros up to `room` of both: its transpose; or
    blocks, where few of them are not zero."""
    rows, columns = weight.shape
    weight = np.pad(weight.astype(np.float32), ((0, room(rows) - rows), (0, room(columns) - columns)))
    groups = weight.reshape(-1, LANES, weight.shape[1])
    used = np.any(groups, axis=1)
    if used.mean() > DENSE:
        return np.ascontiguousarray(weight.T)
    column = [np.flatnonzero(row) for row in used]
    column = [np.pad(numbers, (0, -len(numbers) % UNROLL), constant_values=-1) for numbers in column]
    values = [
        np.where(numbers[:, None] < 0, 0, group.T[numbers])
        for numbers, group in zip(column, groups, strict=True)
    ]
    start = np.cumsum([0, *map(len, column)])
    flat = np.concatenate(column).clip(min=0)
    return Blocks(start.astype(np.int32), flat.astype(np.int32), np.concatenate(values).astype(np.float32))


def multiply(matrix: Matrix, x: np.ndarray, y: np.ndarray) -> None:
    """``y[b] = W x[b]`` for every row of a batch, W as `pack` made it. For compiled code to call."""
    raise NotImplementedError


@overload(multiply, jit_options=_HOW)
@no_type_check
def _multiply(matrix, x, y):
    return _dense if isinstance(matrix, types.Array) else _blocks


@no_type_check
def _dense(matrix, x, y):
    y[:] = 0
    for j in range(0, matrix.shape[0], 4):
        for b in range(x.shape[0]):
            p, q, r, s = x[b, j], x[b, j + 1], x[b, j + 2], x[b, j + 3]
            for i in range(matrix.shape[1]):
                y[b, i] += (
                    matrix[j, i] * p + matrix[j + 1, i] * q + matrix[j + 2, i] * r + matrix[j + 3, i] * s
                )


@no_type_check
def _blocks(matrix, x, y):
    start, column, values = matrix
    for g in range(len(start) - 1):
        for b in range(x.shape[0]):
            z = y[b, 16 * g : 16 * g + 16]
            z[:] = 0
            for k in range(start[g], start[g + 1], 4):
                p, q, r, s = x[b, column[k]], x[b, column[k + 1]], x[b, column[k + 2]], x[b, column[k + 3]]
                for i in range(16):
                    z[i] += (
                        values[k, i] * p + values[k + 1, i] * q + values[k + 2, i] * r + values[k + 3, i] * s
                    )


@njit(**_HOW, inline="always")
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


@njit(**_HOW, inline="always")
@no_type_check
def sigmoid(x):
    """``1 / (1 + e^-x)``."""
    return np.float32(1) / (np.float32(1) + exp(-x))


@njit(**_HOW, inline="always")
@no_type_check
def tanh(x):
    """``(e^2x - 1) / (e^2x + 1)``."""
    return np.float32(2) * sigmoid(np.float32(2) * x) - np.float32(1)


@compiled
@no_type_check
def choose(logits, uniform, temperature, top_p, p):
    """The code that `sashimi_lib.models.sampling.sample` draws by this random number; -1 where the logits are
    not finite. ``p`` is a buffer as long as ``logits``."""
    top, check = logits[0], np.float32(0)
    for i in range(len(logits)):
        top = max(top, logits[i])
        check += np.float32(0) * logits[i]
    if check != 0:  # NaN as well
        return -1
    scale = np.float32(1 / temperature)
    for i in range(len(logits)):
        p[i] = exp((logits[i] - top) * scale)
    if top_p < 1:
        _nucleus(p, top_p)
    total = 0.0
    for i in range(len(p)):
        total += p[i]
    bound, cumulative = uniform * total, 0.0
    for i in range(len(p)):
        cumulative += p[i]
        if cumulative > bound:
            return i
    return len(p) - 1


@compiled
@no_type_check
def _nucleus(p, top_p):
    """Zero what is outside the smallest set of likeliest codes that reaches ``top_p``."""
    order, total, before = np.argsort(-p), 0.0, 0.0
    for i in range(len(p)):
        total += p[i]
    for i in order:
        here = p[i]
        if before >= top_p * total:
            p[i] = 0
        before += here
