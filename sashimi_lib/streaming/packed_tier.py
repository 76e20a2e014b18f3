"""One tier of SaShiMi in compiled code: its packed weights, and one sample through its blocks (chapter 7).

The blocks of a tier have the same shape, so their weights are stacked along a leading axis. All tiers have
arrays of the same types, so one compiled function runs every block of every tier.
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


class PackedNorms(NamedTuple):
    """The weights of several `ScalarNorm` or ``LayerNorm``, (norms, H), and their epsilon, (norms,).

    Both are ``gain (x - mean + shift) / sqrt(variance + epsilon) + bias``.
    """

    shift: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    epsilon: np.ndarray


class PackedSSM(NamedTuple):
    """State spaces with the recurrence ``x <- R (x + s B u + p g) - x``, ``g = s G q* R (x + s B u) / 2``.

    That is the bilinear rule. The midpoint of a step is ``w = (I - dt/2 A)^-1 (x + dt/2 B u)``, and the next
    state is ``2 w - x``; the inverse is Woodbury's, with ``s = dt/2`` and ``R = 2 / (1 - s Lambda)``. Where
    channels share p, q and B, only R, C and s are read for each channel. That is half the size of ``A_bar``
    and ``B_bar``, and the loop is bound by memory bandwidth. A diagonal A under zero-order hold,
    ``x <- a x + b u``, has this form as well: ``R = a + 1``, ``B = b / R``, no p, and ``s = 1``.

    Vectors are [real, imaginary], 2 M numbers, in groups of sixteen channels, (groups, 2 M, 16); or (2 M),
    where channels share them.
    """

    R: np.ndarray  # (pairs, groups, 2 M, 16)
    C: np.ndarray  # (pairs, groups, 2 M, 16)
    B: np.ndarray  # (pairs, groups, 2 M, 16), or (pairs, 2 M)
    p: tuple[np.ndarray, ...]  # as B, for each rank
    q: np.ndarray  # as B, with a leading axis for the rank: the row q* / 2
    G: np.ndarray  # (pairs, rank, rank, padded H): s G
    D: np.ndarray  # (pairs, H)
    s: np.ndarray  # (pairs, H)


class PackedTier(NamedTuple):
    """The weights of a tier: pairs of an S4 and a feed-forward block, and the pools to and from the next one.

    The first ``n_down`` pairs come before the down-pooling. The slowest tier has empty pools. The linear
    layers of all pairs are stacked along the first axis, in matrix and bias.
    """

    n_down: int
    glu: bool  # of the output projections
    norms: PackedNorms  # of all blocks, in their order
    ssm: PackedSSM
    output: PackedLinear
    expand: PackedLinear
    contract: PackedLinear
    down_pool: PackedLinear
    up_pool: PackedLinear


class TierState(NamedTuple):
    """The state of a tier, batch first."""

    ssm: np.ndarray  # (batch, pairs, groups, 2 M, 16)
    gathered: np.ndarray  # (batch, pool, padded H): the samples of the current frame, to be down-pooled
    pending: np.ndarray  # (batch, pool, padded H): the up-pooled outputs of the slower tiers for this frame
    phase: np.ndarray  # (batch,): the index of the next sample in its frame


class Workspace(NamedTuple):
    """The buffers of intermediate results. Their width is that of the widest layer of any tier."""

    x: np.ndarray  # (batch, width): features
    y: np.ndarray  # (batch, width): normalized features
    hidden: np.ndarray  # (batch, width)
    scratch: np.ndarray  # (1 + 2 rank, width)
    skips: np.ndarray  # (1 + 2 pairs, batch, width)


@device_function
@no_type_check
def advance_phase(state: TierState) -> bool:
    """Advance by one sample in the frame, if the tier has frames. Returns whether a frame is complete."""
    pool = state.gathered.shape[1]
    for b in range(len(state.phase)):
        state.phase[b] = (state.phase[b] + 1) % max(pool, 1)
    return pool > 0 and state.phase[0] == 0


@device_function
@no_type_check
def run_tier(tier: PackedTier, state: TierState, workspace: Workspace) -> None:
    """Run the features ``workspace.x`` through a tier in place, and exchange them with the pools."""
    n_down, (pairs, H) = tier.n_down, tier.ssm.D.shape
    for i in range(pairs):
        if i == n_down:
            exchange_with_pool(state, workspace, H)
        for half in range(2):
            skip = 2 * i + half
            if i < n_down or skip == 0:
                push_skip(workspace, H, skip)
            if half == 0:
                _s4_block(workspace, tier, i, state.ssm)
            else:
                _feed_forward(workspace, tier, i)
            if i >= n_down > 0:
                add_skip(workspace, H, 4 * n_down - 1 - skip)
    if not n_down:  # one skip connection around all blocks
        add_skip(workspace, H, 0)


@device_function
@no_type_check
def exchange_with_pool(state: TierState, workspace: Workspace, H: int) -> None:
    """Store the features for the down-pooling, and add the up-pooled outputs of the slower tiers."""
    for b in range(len(workspace.x)):
        if state.gathered.shape[1]:
            gathered, pending = state.gathered[b, state.phase[b]], state.pending[b, state.phase[b]]
            for h in range(H):
                gathered[h] = workspace.x[b, h]
                workspace.x[b, h] += pending[h]


@device_function
@no_type_check
def push_skip(workspace: Workspace, H: int, n: int) -> None:
    """Store the features as skip connection n."""
    for b in range(len(workspace.x)):
        for h in range(H):
            workspace.skips[n, b, h] = workspace.x[b, h]


@device_function
@no_type_check
def add_skip(workspace: Workspace, H: int, n: int) -> None:
    """Add skip connection n to the features."""
    for b in range(len(workspace.x)):
        for h in range(H):
            workspace.x[b, h] += workspace.skips[n, b, h]


@device_function
@no_type_check
def _s4_block(workspace, tier, i, states):
    """Apply ``x + S4(norm(x))`` in place."""
    x, y, hidden, H, output = workspace.x, workspace.y, workspace.hidden, tier.ssm.D.shape[1], tier.output
    normalize(x, tier.norms, 2 * i, y)
    _ssm_step(y, tier.ssm, i, states, workspace.scratch)
    affine(PackedLinear(output.matrix[i], output.bias[i]), y, hidden)
    for b in range(len(x)):
        if tier.glu:
            for h in range(H):
                x[b, h] += hidden[b, h] * sigmoid(hidden[b, H + h])
        else:
            for h in range(H):
                x[b, h] += hidden[b, h]


@device_function
@no_type_check
def _feed_forward(workspace, tier, i):
    """Apply ``x + W2 gelu(W1 norm(x))`` in place."""
    x, y, hidden, expand, contract = workspace.x, workspace.y, workspace.hidden, tier.expand, tier.contract
    normalize(x, tier.norms, 2 * i + 1, y)
    affine(PackedLinear(expand.matrix[i], expand.bias[i]), y, hidden)
    for b in range(len(x)):
        for h in range(expand.bias.shape[1]):
            hidden[b, h] = gelu(hidden[b, h])
        for h in range(contract.bias.shape[1]):
            x[b, h] += contract.bias[i, h]
    add_product(contract.matrix[i], hidden, x)


@device_function
@no_type_check
def normalize(x: np.ndarray, norms: PackedNorms, i: int, y: np.ndarray) -> None:
    """Write norm i of ``x`` to ``y``."""
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
def _ssm_step(u, ssm, i, states, scratch):
    """Apply one step of H recurrences (`PackedSSM`), sixteen at a time, and GELU to ``u`` in place."""
    H, M, rank = ssm.D.shape[1], ssm.R.shape[2] // 2, len(ssm.p)
    su, q_products, g = scratch[0], scratch[1 : 1 + rank], scratch[1 + rank :]
    for b in range(len(u)):
        for h in range(H):
            su[h] = ssm.s[i, h] * u[b, h]
            u[b, h] *= ssm.D[i, h]
        for k in range(ssm.R.shape[1]):
            R, C, x = ssm.R[i, k], ssm.C[i, k], states[b, i, k]
            v = load(su, k)
            for r in range(rank):
                q_real, q_imag = broadcast(0), broadcast(0)
                for m in range(M):
                    real = load(x, m) + entry(ssm.B, i, k, m) * v
                    imag = load(x, M + m) + entry(ssm.B, i, k, M + m) * v
                    q_real += entry(ssm.q[r], i, k, m) * (load(R, m) * real - load(R, M + m) * imag)
                    q_imag += entry(ssm.q[r], i, k, M + m) * (load(R, M + m) * real + load(R, m) * imag)
                store(q_real + q_imag, q_products[r], k)
            for r in range(rank):
                total = broadcast(0)
                for c in range(rank):
                    total += load(ssm.G[i, r, c], k) * load(q_products[c], k)
                store(total, g[r], k)
            y_real, y_imag = load(u[b], k), broadcast(0)
            for m in range(M):
                real = load(x, m) + entry(ssm.B, i, k, m) * v + low_rank(ssm.p, i, k, m, g)
                imag = load(x, M + m) + entry(ssm.B, i, k, M + m) * v + low_rank(ssm.p, i, k, M + m, g)
                new_real = load(R, m) * real - (load(R, M + m) * imag + load(x, m))
                new_imag = load(R, M + m) * real + (load(R, m) * imag - load(x, M + m))
                y_real += load(C, m) * new_real
                y_imag += load(C, M + m) * new_imag
                store(new_real, x, m)
                store(new_imag, x, M + m)
            store(y_real + y_imag, u[b], k)
        for h in range(H):
            u[b, h] = gelu(u[b, h])


def entry(vector: np.ndarray, i: int, k: int, m: int) -> object:
    """Return entry m of a vector of block i for the k-th sixteen channels, which may share it. Called by
    compiled code."""
    raise NotImplementedError


@overload(entry, inline="always")
@no_type_check
def _entry(vector, i, k, m):
    if vector.ndim == 2:
        return lambda vector, i, k, m: broadcast(vector[i, m])
    return lambda vector, i, k, m: load(vector[i, k], m)


def low_rank(p: tuple[np.ndarray, ...], i: int, k: int, m: int, g: np.ndarray) -> object:
    """Return entry m of ``p g`` for the k-th sixteen channels. Called by compiled code."""
    raise NotImplementedError


@overload(low_rank, inline="always")
@no_type_check
def _low_rank(p, i, k, m, g):
    if len(p) == 0:
        return lambda p, i, k, m, g: broadcast(0)
    if len(p) == 1:
        return lambda p, i, k, m, g: entry(p[0], i, k, m) * load(g[0], k)
    return lambda p, i, k, m, g: entry(p[0], i, k, m) * load(g[0], k) + entry(p[1], i, k, m) * load(g[1], k)
