"""A tier of SaShiMi, compiled: its weights side by side, and one sample through its blocks (chapter 7).

The blocks of a tier have one shape, so their weights lie in arrays with one axis more; and all tiers have
arrays of the same kinds, so that one compiled function serves every block of every tier.
"""

from typing import NamedTuple, no_type_check

import numpy as np
from numba.extending import overload

from sashimi_lib.streaming.compiled_ops import (
    PackedLinear,
    add_product,
    affine,
    device_function,
    gelu,
    sigmoid,
)
from sashimi_lib.streaming.vectors import broadcast, load, store


class Norms(NamedTuple):
    """``gain (x - mean + shift) / sqrt(variance + epsilon) + bias``, which is either kind of norm: (norms,
    H), and (norms,) of epsilon."""

    shift: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    epsilon: np.ndarray


class Spaces(NamedTuple):
    """Recurrences ``x <- R (x + s B u + p g) - x`` with ``g = s G q* R (x + s B u) / 2``.

    That is the bilinear rule: ``w = (I - dt/2 A)^-1 (x + dt/2 B u)`` is the state halfway through a step, the
    next one is ``2 w - x``, and the inverse is Woodbury's, with ``s = dt/2`` and ``R = 2 / (1 - s Lambda)``.
    Where channels share p, q and B, only R, C and s are read for every channel: half of what ``A_bar`` and
    ``B_bar`` would take, and reading is what costs. A diagonal A under zero-order hold, ``x <- a x + b u``,
    is of this form as well: ``R = a + 1``, ``B = b / R``, no p, and ``s = 1``.

    Vectors are [real, imaginary], 2 M numbers, and lie in groups of sixteen channels, (groups, 2 M, 16); or
    (2 M), where channels share.
    """

    R: np.ndarray  # (pairs, groups, 2 M, 16)
    C: np.ndarray  # (pairs, groups, 2 M, 16)
    B: np.ndarray  # (pairs, groups, 2 M, 16), or (pairs, 2 M)
    p: tuple[np.ndarray, ...]  # as B, for each rank
    q: np.ndarray  # as B, with an axis for the rank in front: the row q* / 2
    G: np.ndarray  # (pairs, rank, rank, room): s G
    D: np.ndarray  # (pairs, H)
    s: np.ndarray  # (pairs, H)


class PackedTier(NamedTuple):
    """The weights of a tier: pairs of an S4 block and a feed-forward block, of which the first ``down`` are
    on the way down; and the pools to and from the next tier, where there is one."""

    down: int
    gated: bool  # the mixing of channels, by a GLU
    norm: Norms  # of the blocks, in turn
    space: Spaces
    mix: PackedLinear  # of all pairs: their axis comes first, in matrix and bias
    expand: PackedLinear
    contract: PackedLinear
    to_next: PackedLinear
    from_next: PackedLinear


class TierState(NamedTuple):
    """What a tier remembers, batch first."""

    states: np.ndarray  # (batch, pairs, groups, 2 M, 16)
    gathered: np.ndarray  # (batch, pool, room): the samples of this frame so far
    pending: np.ndarray  # (batch, pool, room): what the slower tiers say to them
    phase: np.ndarray  # (batch,): how far the frame is


class Workspace(NamedTuple):
    """What is being computed: features, intermediate results, skips."""

    x: np.ndarray  # (batch, widest)
    y: np.ndarray
    wide: np.ndarray
    scratch: np.ndarray  # (1 + 2 rank, widest)
    skips: np.ndarray  # (1 + 2 pairs, batch, widest)


@device_function
@no_type_check
def advance_phase(memory):
    """One sample further in a frame, where there are frames; True where one is whole."""
    pool = memory.gathered.shape[1]
    for b in range(len(memory.phase)):
        memory.phase[b] = (memory.phase[b] + 1) % max(pool, 1)
    return pool > 0 and memory.phase[0] == 0


@device_function
@no_type_check
def run_tier(tier, memory, workspace):
    """The features ``workspace.x`` through a tier, into its frame, and with what the slower ones have said."""
    down, (pairs, H) = tier.down, tier.space.D.shape
    for i in range(pairs):
        if i == down:
            exchange_with_pool(memory, workspace, H)
        for half in range(2):
            skip = 2 * i + half
            if i < down or skip == 0:
                push_skip(workspace, H, skip)
            if half == 0:
                _s4_block(workspace, tier, i, memory.states)
            else:
                _feed_forward(workspace, tier, i)
            if i >= down > 0:
                _add_skip(workspace, H, 4 * down - 1 - skip)
    if not down:  # one skip, round all blocks
        _add_skip(workspace, H, 0)


@device_function
@no_type_check
def exchange_with_pool(memory, workspace, H):
    """Put the features into the frame for the slower tiers, and add what they have said."""
    for b in range(len(workspace.x)):
        if memory.gathered.shape[1]:
            gathered, pending = memory.gathered[b, memory.phase[b]], memory.pending[b, memory.phase[b]]
            for h in range(H):
                gathered[h] = workspace.x[b, h]
                workspace.x[b, h] += pending[h]


@device_function
@no_type_check
def push_skip(workspace, H, n):
    for b in range(len(workspace.x)):
        for h in range(H):
            workspace.skips[n, b, h] = workspace.x[b, h]


@device_function
@no_type_check
def _add_skip(workspace, H, n):
    for b in range(len(workspace.x)):
        for h in range(H):
            workspace.x[b, h] += workspace.skips[n, b, h]


@device_function
@no_type_check
def _s4_block(workspace, tier, i, states):
    """``x + S4(norm(x))``, in place."""
    x, y, wide, H, mix = workspace.x, workspace.y, workspace.wide, tier.space.D.shape[1], tier.mix
    normalise(x, tier.norm, 2 * i, y)
    _recur(y, tier.space, i, states, workspace.scratch)
    affine(PackedLinear(mix.matrix[i], mix.bias[i]), y, wide)
    for b in range(len(x)):
        if tier.gated:
            for h in range(H):
                x[b, h] += wide[b, h] * sigmoid(wide[b, H + h])
        else:
            for h in range(H):
                x[b, h] += wide[b, h]


@device_function
@no_type_check
def _feed_forward(workspace, tier, i):
    """``x + W2 gelu(W1 norm(x))``, in place."""
    x, y, wide, expand, contract = workspace.x, workspace.y, workspace.wide, tier.expand, tier.contract
    normalise(x, tier.norm, 2 * i + 1, y)
    affine(PackedLinear(expand.matrix[i], expand.bias[i]), y, wide)
    for b in range(len(x)):
        for h in range(expand.bias.shape[1]):
            wide[b, h] = gelu(wide[b, h])
        for h in range(contract.bias.shape[1]):
            x[b, h] += contract.bias[i, h]
    add_product(contract.matrix[i], wide, x)


@device_function
@no_type_check
def normalise(x, norms, i, y):
    H = norms.gain.shape[1]
    for b in range(len(x)):
        mean, variance = np.float32(0), np.float32(0)
        for h in range(H):
            mean += x[b, h]
        mean /= np.float32(H)
        for h in range(H):
            variance += (x[b, h] - mean) * (x[b, h] - mean)
        variance /= np.float32(H)
        scale = np.float32(0)  # equal channels give zero
        if variance > 0:
            scale = np.float32(1) / np.sqrt(variance + norms.epsilon[i])
        for h in range(H):
            y[b, h] = norms.gain[i, h] * ((x[b, h] - mean + norms.shift[i, h]) * scale) + norms.bias[i, h]


@device_function
@no_type_check
def _recur(u, space, i, states, scratch):
    """One step of H recurrences (`Spaces`), sixteen at a time, and GELU of what they give, in place."""
    H, M, rank = space.D.shape[1], space.R.shape[2] // 2, len(space.p)
    v, heard_by_q, g = scratch[0], scratch[1 : 1 + rank], scratch[1 + rank :]
    for b in range(len(u)):
        for h in range(H):
            v[h] = space.s[i, h] * u[b, h]
            u[b, h] *= space.D[i, h]
        for k in range(space.R.shape[1]):
            R, C, x = space.R[i, k], space.C[i, k], states[b, i, k]
            heard = load(v, k)
            for r in range(rank):
                above, below = broadcast(0), broadcast(0)
                for m in range(M):
                    real = load(x, m) + at(space.B, i, k, m) * heard
                    imag = load(x, M + m) + at(space.B, i, k, M + m) * heard
                    above += at(space.q[r], i, k, m) * (load(R, m) * real - load(R, M + m) * imag)
                    below += at(space.q[r], i, k, M + m) * (load(R, M + m) * real + load(R, m) * imag)
                store(above + below, heard_by_q[r], k)
            for r in range(rank):
                total = broadcast(0)
                for c in range(rank):
                    total += load(space.G[i, r, c], k) * load(heard_by_q[c], k)
                store(total, g[r], k)
            above, below = load(u[b], k), broadcast(0)
            for m in range(M):
                real = load(x, m) + at(space.B, i, k, m) * heard + low_rank(space.p, i, k, m, g)
                imag = load(x, M + m) + at(space.B, i, k, M + m) * heard + low_rank(space.p, i, k, M + m, g)
                new_real = load(R, m) * real - (load(R, M + m) * imag + load(x, m))
                new_imag = load(R, M + m) * real + (load(R, m) * imag - load(x, M + m))
                above += load(C, m) * new_real
                below += load(C, M + m) * new_imag
                store(new_real, x, m)
                store(new_imag, x, M + m)
            store(above + below, u[b], k)
        for h in range(H):
            u[b, h] = gelu(u[b, h])


def at(vector: np.ndarray, i: int, k: int, m: int) -> object:
    """Entry m of block i's vector, for sixteen channels: their own, or the one that all share. For compiled
    code to call."""
    raise NotImplementedError


@overload(at, inline="always")
@no_type_check
def _at(vector, i, k, m):
    if vector.ndim == 2:
        return lambda vector, i, k, m: broadcast(vector[i, m])
    return lambda vector, i, k, m: load(vector[i, k], m)


def low_rank(p: tuple[np.ndarray, ...], i: int, k: int, m: int, g: np.ndarray) -> object:
    """Entry m of ``p g``, for sixteen channels. For compiled code to call."""
    raise NotImplementedError


@overload(low_rank, inline="always")
@no_type_check
def _low_rank(p, i, k, m, g):
    if len(p) == 0:
        return lambda p, i, k, m, g: broadcast(0)
    if len(p) == 1:
        return lambda p, i, k, m, g: at(p[0], i, k, m) * load(g[0], k)
    return lambda p, i, k, m, g: at(p[0], i, k, m) * load(g[0], k) + at(p[1], i, k, m) * load(g[1], k)
