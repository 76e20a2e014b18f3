"""SaShiMi's sample loop, compiled: every tier at its rate, the head and the draw in one function (chapter 7).

The blocks of a tier have one shape, so their weights lie side by side, in arrays with one axis more; and all
tiers have arrays of the same kinds, so that one compiled function serves every block of every tier.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, no_type_check

import numpy as np
import torch
from numba.extending import overload
from torch import Tensor, nn

from sashimi_lib.autoregressive import AudioLM
from sashimi_lib.models import sashimi
from sashimi_lib.models.blocks import ScalarNorm, State
from sashimi_lib.ssm.s4 import Form, StateSpace
from sashimi_lib.ssm.systems import real_columns, real_vector
from sashimi_lib.streaming.heads import draw, embed, head_desk, pack_embedding, pack_head
from sashimi_lib.streaming.kernels import (
    Layer,
    Orders,
    add_product,
    affine,
    compiled,
    dense,
    gelu,
    inner,
    numbers,
    padded,
    room,
    sigmoid,
)
from sashimi_lib.streaming.loop import Loop, side_by_side
from sashimi_lib.streaming.vectors import LANES, load, spread, store

Module = sashimi.Tier | sashimi.UNetTier | sashimi.Centre


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


class Tier(NamedTuple):
    """The weights of a tier: pairs of an S4 block and a feed-forward block, of which the first ``down`` are
    on the way down; and the pools to and from the next tier, where there is one."""

    down: int
    gated: bool  # the mixing of channels, by a GLU
    norm: Norms  # of the blocks, in turn
    space: Spaces
    mix: Layer  # of all pairs: their axis comes first, in matrix and bias
    expand: Layer
    contract: Layer
    to_next: Layer
    from_next: Layer


class Memory(NamedTuple):
    """What a tier remembers, batch first."""

    states: np.ndarray  # (batch, pairs, groups, 2 M, 16)
    gathered: np.ndarray  # (batch, pool, room): the samples of this frame so far
    pending: np.ndarray  # (batch, pool, room): what the slower tiers say to them
    phase: np.ndarray  # (batch,): how far the frame is


class Desk(NamedTuple):
    """What is being computed: features, intermediate results, skips."""

    x: np.ndarray  # (batch, widest)
    y: np.ndarray
    wide: np.ndarray
    scratch: np.ndarray  # (1 + 2 rank, widest)
    skips: np.ndarray  # (1 + 2 pairs, batch, widest)


class SaShiMiLoop(Loop):
    """The weights of a SaShiMi, its embedding and its head, packed once."""

    def __init__(self, model: AudioLM) -> None:
        assert isinstance(model.backbone, sashimi.SaShiMi)
        self.modules, self.dtype = list(_walk(model.backbone.tiers)), model.backbone.norm.weight.dtype
        self.table, self.head = pack_embedding(model.embedding), pack_head(model.head)
        self.codes, self.levels = len(self.table), self.head.levels
        self.tiers = side_by_side(tuple(map(_pack_tier, self.modules)))
        self.norm = _pack_norms([model.backbone.norm], model.backbone.d_model)

    def begin(self, state: State) -> tuple[Memory, ...]:
        """The state of every tier, from the fastest on."""
        memory = []
        for module in self.modules:
            blocks, hourglass = _opened(module, state)
            states = np.stack([_grouped(numbers(x).swapaxes(0, 1)) for x in blocks[::2]], axis=1)
            no_frame = torch.zeros(len(states), 0, 0)
            gathered, pending, phase, state = hourglass or (no_frame, no_frame, 0, None)
            frame = padded(numbers(gathered), 2), padded(numbers(pending), 2)
            memory.append(Memory(states, *frame, np.full(len(states), int(phase))))
        return side_by_side(tuple(memory))

    def end(self, memory: tuple[Memory, ...]) -> State:
        """The nested state of the model."""
        state: State = None
        for module, tier, kept in reversed(list(zip(self.modules, self.tiers, memory, strict=True))):
            H, hourglass = tier.space.D.shape[1], None
            if not isinstance(module, sashimi.Centre):
                frame = (self._tensor(part[..., :H]) for part in (kept.gathered, kept.pending))
                hourglass = (*frame, torch.tensor(int(kept.phase[0])), state)
            states = map(self._tensor, np.moveaxis(_ungrouped(kept.states, H), 1, 0))
            blocks = tuple(part for x in states for part in (x, ()))  # feed-forward blocks remember nothing
            state = _closed(module, blocks, hourglass)
        return state

    def run(self, codes: np.ndarray, memory: tuple[Memory, ...], orders: Orders) -> bool:
        """Write codes after the first, which are there already."""
        layers = [(tier.mix, tier.expand, tier.contract) for tier in self.tiers]
        widest = max(layer.bias.shape[1] for three in layers for layer in three)
        pairs, rank = self.tiers[0].space.G.shape[:2]
        x, y, wide = np.zeros((3, len(codes), widest), np.float32)
        scratch = np.zeros((1 + 2 * rank, widest), np.float32)
        desk = Desk(x, y, wide, scratch, np.zeros((1 + 2 * pairs, len(codes), widest), np.float32))
        tables = self.table, self.tiers, self.norm, self.head, side_by_side(desk)
        return _loop(codes, memory, orders, *tables)

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x.copy()).to(self.dtype)


@compiled
@no_type_check
def _loop(codes, memory, orders, table, tiers, norm, head, desk):
    batch, H = len(codes), table.shape[2]
    y = np.zeros((batch, room(H)), np.float32)
    heads_desk = head_desk(batch, head)
    for t in range(codes.shape[1] - 1):
        embed(codes, t, table, desk.x)
        for n in range(len(tiers)):
            tier, kept = tiers[n], memory[n]
            _through(tier, kept, desk)
            if n == 0:
                _normalise(desk.x, norm, 0, y)
            else:
                affine(tiers[n - 1].from_next, desk.x, memory[n - 1].pending.reshape(batch, -1))
            if not _advance(kept):
                break
            affine(tier.to_next, kept.gathered.reshape(batch, -1), desk.x)
        if not draw(head, y, orders, t, heads_desk, codes):
            return False
    return True


@inner
@no_type_check
def _advance(memory):
    """One sample further in a frame, where there are frames; True where one is whole."""
    pool = memory.gathered.shape[1]
    for b in range(len(memory.phase)):
        memory.phase[b] = (memory.phase[b] + 1) % max(pool, 1)
    return pool > 0 and memory.phase[0] == 0


@inner
@no_type_check
def _through(tier, memory, desk):
    """The features ``desk.x`` through a tier, into its frame, and with what the slower ones have said."""
    down, (pairs, H) = tier.down, tier.space.D.shape
    for i in range(pairs):
        if i == down:
            _meet(memory, desk, H)
        for half in range(2):
            skip = 2 * i + half
            if i < down or skip == 0:
                _put_aside(desk, H, skip)
            if half == 0:
                _s4_block(desk, tier, i, memory.states)
            else:
                _feed_forward(desk, tier, i)
            if i >= down > 0:
                _add_skip(desk, H, 4 * down - 1 - skip)
    if not down:  # one skip, round all blocks
        _add_skip(desk, H, 0)


@inner
@no_type_check
def _meet(memory, desk, H):
    """Put the features into the frame for the slower tiers, and add what they have said."""
    for b in range(len(desk.x)):
        if memory.gathered.shape[1]:
            gathered, pending = memory.gathered[b, memory.phase[b]], memory.pending[b, memory.phase[b]]
            for h in range(H):
                gathered[h] = desk.x[b, h]
                desk.x[b, h] += pending[h]


@inner
@no_type_check
def _put_aside(desk, H, n):
    for b in range(len(desk.x)):
        for h in range(H):
            desk.skips[n, b, h] = desk.x[b, h]


@inner
@no_type_check
def _add_skip(desk, H, n):
    for b in range(len(desk.x)):
        for h in range(H):
            desk.x[b, h] += desk.skips[n, b, h]


@inner
@no_type_check
def _s4_block(desk, tier, i, states):
    """``x + S4(norm(x))``, in place."""
    x, y, wide, H, mix = desk.x, desk.y, desk.wide, tier.space.D.shape[1], tier.mix
    _normalise(x, tier.norm, 2 * i, y)
    _recur(y, tier.space, i, states, desk.scratch)
    affine(Layer(mix.matrix[i], mix.bias[i]), y, wide)
    for b in range(len(x)):
        if tier.gated:
            for h in range(H):
                x[b, h] += wide[b, h] * sigmoid(wide[b, H + h])
        else:
            for h in range(H):
                x[b, h] += wide[b, h]


@inner
@no_type_check
def _feed_forward(desk, tier, i):
    """``x + W2 gelu(W1 norm(x))``, in place."""
    x, y, wide, expand, contract = desk.x, desk.y, desk.wide, tier.expand, tier.contract
    _normalise(x, tier.norm, 2 * i + 1, y)
    affine(Layer(expand.matrix[i], expand.bias[i]), y, wide)
    for b in range(len(x)):
        for h in range(expand.bias.shape[1]):
            wide[b, h] = gelu(wide[b, h])
        for h in range(contract.bias.shape[1]):
            x[b, h] += contract.bias[i, h]
    add_product(contract.matrix[i], wide, x)


@inner
@no_type_check
def _normalise(x, norms, i, y):
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


@inner
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
                above, below = spread(0), spread(0)
                for m in range(M):
                    real = load(x, m) + at(space.B, i, k, m) * heard
                    imag = load(x, M + m) + at(space.B, i, k, M + m) * heard
                    above += at(space.q[r], i, k, m) * (load(R, m) * real - load(R, M + m) * imag)
                    below += at(space.q[r], i, k, M + m) * (load(R, M + m) * real + load(R, m) * imag)
                store(above + below, heard_by_q[r], k)
            for r in range(rank):
                total = spread(0)
                for c in range(rank):
                    total += load(space.G[i, r, c], k) * load(heard_by_q[c], k)
                store(total, g[r], k)
            above, below = load(u[b], k), spread(0)
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
        return lambda vector, i, k, m: spread(vector[i, m])
    return lambda vector, i, k, m: load(vector[i, k], m)


def low_rank(p: tuple[np.ndarray, ...], i: int, k: int, m: int, g: np.ndarray) -> object:
    """Entry m of ``p g``, for sixteen channels. For compiled code to call."""
    raise NotImplementedError


@overload(low_rank, inline="always")
@no_type_check
def _low_rank(p, i, k, m, g):
    if len(p) == 0:
        return lambda p, i, k, m, g: spread(0)
    if len(p) == 1:
        return lambda p, i, k, m, g: at(p[0], i, k, m) * load(g[0], k)
    return lambda p, i, k, m, g: at(p[0], i, k, m) * load(g[0], k) + at(p[1], i, k, m) * load(g[1], k)


def _walk(module: Any) -> Iterator[Module]:
    """A tier and all slower ones."""
    yield module
    if not isinstance(module, sashimi.Centre):
        yield from _walk(module.hourglass.inner)


def _opened(module: Module, state: State) -> tuple[tuple[State, ...], State]:
    """The states of a tier's blocks, in their order, and of its hourglass."""
    match module:
        case sashimi.Centre():
            return state[0], None
        case sashimi.Tier():
            return state[1], state[0]
    depth = len(module.down.blocks)
    return state[:depth] + state[depth + 1 :], state[depth]


def _closed(module: Module, blocks: tuple[State, ...], hourglass: State) -> State:
    """The inverse of `_opened`."""
    match module:
        case sashimi.Centre():
            return (blocks,)
        case sashimi.Tier():
            return hourglass, blocks
    depth = len(module.down.blocks)
    return *blocks[:depth], hourglass, *blocks[depth:]


def _pack_tier(module: Module) -> Tier:
    """The weights of a tier."""
    if isinstance(module, sashimi.UNetTier):
        down, blocks = len(module.down.blocks) // 2, [*module.down.blocks, *module.up.blocks]
    else:
        down, blocks = 0, list(module.blocks.blocks)
    s4, feed_forward = blocks[::2], blocks[1::2]
    H = feed_forward[0].contract.out_features
    return Tier(
        down,
        s4[0].layer.glu,
        _pack_norms([block.norm for block in blocks], H),
        _pack_spaces([block.layer.ssm for block in s4]),
        _pack_layers([block.layer.output for block in s4]),
        _pack_layers([block.expand for block in feed_forward]),
        _pack_layers([block.contract for block in feed_forward]),
        *_pack_pools(module, H),
    )


def _pack_pools(module: Module, H: int) -> tuple[Layer, Layer]:
    """To the next tier and from it. What came channel by channel comes sample by sample, with room for
    each."""
    if isinstance(module, sashimi.Centre):
        nothing = Layer(np.zeros((0, 0, LANES), np.float32), np.zeros(0, np.float32))
        return nothing, nothing
    down, up = module.hourglass.down, module.hourglass.up
    gather = padded(numbers(down.linear.weight).reshape(-1, H, down.pool).transpose(0, 2, 1), 2)
    scatter = padded(numbers(up.linear.weight).reshape(H, up.pool, -1).transpose(1, 0, 2), 1)
    bias = padded(numbers(up.linear.bias).reshape(H, up.pool).T, 1)
    return (
        Layer(dense(gather.reshape(len(gather), -1)), padded(numbers(down.linear.bias), 0)),
        Layer(dense(scatter.reshape(-1, scatter.shape[2])), np.ascontiguousarray(bias.reshape(-1))),
    )


def _pack_norms(norms: list[nn.Module], H: int) -> Norms:
    rows = []
    for norm in norms:
        if isinstance(norm, ScalarNorm):
            rows.append((norm.m.expand(H), norm.s.expand(H), torch.zeros(H), torch.tensor(0.0)))
        else:
            assert isinstance(norm, nn.LayerNorm)
            rows.append((torch.zeros(H), norm.weight, norm.bias, torch.tensor(norm.eps)))
    return Norms(*(np.stack([numbers(part) for part in column]) for column in zip(*rows, strict=True)))


def _pack_layers(layers: list[nn.Linear]) -> Layer:
    matrices = np.stack([dense(numbers(layer.weight)) for layer in layers])
    return Layer(matrices, padded(np.stack([numbers(layer.bias) for layer in layers]), 1))


def _pack_spaces(spaces: list[StateSpace]) -> Spaces:
    R, C, B, p, q, G, D, s = (np.stack(column) for column in zip(*map(_space, spaces), strict=True))
    p, q = (x.swapaxes(0, 1) for x in (p, q))
    return Spaces(R, C, B[:, 0], tuple(p), q, G, D, s)


@torch.no_grad()
def _space(space: StateSpace) -> tuple[np.ndarray, ...]:
    """R, C, B, p, q, s G, D and s of one block, with an axis for the rank in front of B, p and q."""
    Lambda, p, _, B, _, dt = system = space.system()
    if space.config.form is Form.DIAGONAL:
        s = torch.ones_like(dt)
        R = torch.exp(dt[:, None] * Lambda) + 1
        B = (R - 2) / Lambda * B / R
    else:
        s = dt / 2
        R = 2 / (1 - s[:, None] * Lambda)
    half_q, I = system.q_row() / 2, torch.eye(p.shape[-1], dtype=dt.dtype)
    G = torch.linalg.inv(I - s[:, None, None] * half_q @ real_columns(R[..., None] * p))
    vectors = [real_vector(B)[:, None], real_columns(p).mT, half_q]  # (H, rank, 2 M)
    shared = space.config.tied and space.config.form is not Form.DIAGONAL
    return (
        *(_grouped(numbers(x)[:, None])[0] for x in (real_vector(R), system.C_row())),
        *(numbers(x[0]) if shared else _grouped(numbers(x)) for x in vectors),
        padded(numbers((s[:, None, None] * G).permute(1, 2, 0)), 2),
        numbers(space.D),
        numbers(s),
    )


def _grouped(x: np.ndarray) -> np.ndarray:
    """(H, vectors, N) -> (vectors, groups, N, 16)."""
    x = padded(x, 0)
    return np.ascontiguousarray(x.reshape(len(x) // LANES, LANES, *x.shape[1:]).transpose(2, 0, 3, 1))


def _ungrouped(x: np.ndarray, H: int) -> np.ndarray:
    """(..., groups, N, 16) -> (..., H, N)."""
    *axes, groups, N, lanes = x.shape
    return np.moveaxis(x, -1, -2).reshape(*axes, groups * lanes, N)[..., :H, :]
