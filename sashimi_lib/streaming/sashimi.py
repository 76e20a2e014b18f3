"""SaShiMi's sample loop, compiled: every tier at its rate, the head and the draw in one function (chapter 7).

`sashimi_lib.streaming.packed_tier` has what happens in a tier; here are the loop, and how a model's weights and
state become its arrays.
"""

from collections.abc import Iterator
from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor, nn

from sashimi_lib.models import sashimi
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.blocks import ScalarNorm, State
from sashimi_lib.ssm.s4 import Form, StateSpace
from sashimi_lib.ssm.systems import real_columns, real_vector
from sashimi_lib.streaming.compiled_loop import CompiledLoop, pack_contiguous
from sashimi_lib.streaming.compiled_ops import (
    PackedLinear,
    SamplingRequest,
    affine,
    dense,
    jit,
    padded,
    padded_size,
    to_float32_array,
)
from sashimi_lib.streaming.packed_heads import embed, head_workspace, pack_embedding, pack_head, sample_codes
from sashimi_lib.streaming.packed_tier import (
    Norms,
    PackedTier,
    Spaces,
    TierState,
    Workspace,
    advance_phase,
    normalise,
    run_tier,
)
from sashimi_lib.streaming.vectors import LANES

Module = sashimi.PooledTier | sashimi.UNetTier | sashimi.CenterTier


class SaShiMiLoop(CompiledLoop):
    """The weights of a SaShiMi, its embedding and its head, packed once."""

    def __init__(self, model: AudioLM) -> None:
        assert isinstance(model.backbone, sashimi.SaShiMi)
        self.modules, self.dtype = list(_walk(model.backbone.tiers)), model.backbone.norm.weight.dtype
        self.table, self.head = pack_embedding(model.embedding), pack_head(model.head)
        self.codes, self.levels = len(self.table), self.head.levels
        self.tiers = pack_contiguous(tuple(map(_pack_tier, self.modules)))
        self.norm = _pack_norms([model.backbone.norm], model.backbone.d_model)

    def begin(self, state: State) -> tuple[TierState, ...]:
        """The state of every tier, from the fastest on."""
        memory = []
        for module in self.modules:
            blocks, hourglass = _opened(module, state)
            states = np.stack([_grouped(to_float32_array(x).swapaxes(0, 1)) for x in blocks[::2]], axis=1)
            no_frame = torch.zeros(len(states), 0, 0)
            gathered, pending, phase, state = hourglass or (no_frame, no_frame, 0, None)
            frame = padded(to_float32_array(gathered), 2), padded(to_float32_array(pending), 2)
            memory.append(TierState(states, *frame, np.full(len(states), int(phase))))
        return pack_contiguous(tuple(memory))

    def end(self, memory: tuple[TierState, ...]) -> State:
        """The nested state of the model."""
        state: State = None
        for module, tier, kept in reversed(list(zip(self.modules, self.tiers, memory, strict=True))):
            H, hourglass = tier.space.D.shape[1], None
            if not isinstance(module, sashimi.CenterTier):
                frame = (self._tensor(part[..., :H]) for part in (kept.gathered, kept.pending))
                hourglass = (*frame, torch.tensor(int(kept.phase[0])), state)
            states = map(self._tensor, np.moveaxis(_ungrouped(kept.states, H), 1, 0))
            blocks = tuple(part for x in states for part in (x, ()))  # feed-forward blocks remember nothing
            state = _closed(module, blocks, hourglass)
        return state

    def run(self, codes: np.ndarray, memory: tuple[TierState, ...], request: SamplingRequest) -> bool:
        """Write codes after the first, which are there already."""
        layers = [(tier.mix, tier.expand, tier.contract) for tier in self.tiers]
        widest = max(layer.bias.shape[1] for three in layers for layer in three)
        pairs, rank = self.tiers[0].space.G.shape[:2]
        x, y, wide = np.zeros((3, len(codes), widest), np.float32)
        scratch = np.zeros((1 + 2 * rank, widest), np.float32)
        workspace = Workspace(x, y, wide, scratch, np.zeros((1 + 2 * pairs, len(codes), widest), np.float32))
        tables = self.table, self.tiers, self.norm, self.head, pack_contiguous(workspace)
        return _loop(codes, memory, request, *tables)

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x.copy()).to(self.dtype)


@jit
@no_type_check
def _loop(codes, memory, request, table, tiers, norm, head, workspace):
    batch, H = len(codes), table.shape[2]
    y = np.zeros((batch, padded_size(H)), np.float32)
    heads_desk = head_workspace(batch, head)
    for t in range(codes.shape[1] - 1):
        embed(codes, t, table, workspace.x)
        for n in range(len(tiers)):
            tier, kept = tiers[n], memory[n]
            run_tier(tier, kept, workspace)
            if n == 0:
                normalise(workspace.x, norm, 0, y)
            else:
                affine(tiers[n - 1].from_next, workspace.x, memory[n - 1].pending.reshape(batch, -1))
            if not advance_phase(kept):
                break
            affine(tier.to_next, kept.gathered.reshape(batch, -1), workspace.x)
        if not sample_codes(head, y, request, t, heads_desk, codes):
            return False
    return True


def _walk(module: Any) -> Iterator[Module]:
    """A tier and all slower ones."""
    yield module
    if not isinstance(module, sashimi.CenterTier):
        yield from _walk(module.hourglass.inner)


def _opened(module: Module, state: State) -> tuple[tuple[State, ...], State]:
    """The states of a tier's blocks, in their order, and of its hourglass."""
    match module:
        case sashimi.CenterTier():
            return state[0], None
        case sashimi.PooledTier():
            return state[1], state[0]
    depth = len(module.down.blocks)
    return state[:depth] + state[depth + 1 :], state[depth]


def _closed(module: Module, blocks: tuple[State, ...], hourglass: State) -> State:
    """The inverse of `_opened`."""
    match module:
        case sashimi.CenterTier():
            return (blocks,)
        case sashimi.PooledTier():
            return hourglass, blocks
    depth = len(module.down.blocks)
    return *blocks[:depth], hourglass, *blocks[depth:]


def _pack_tier(module: Module) -> PackedTier:
    """The weights of a tier."""
    if isinstance(module, sashimi.UNetTier):
        down, blocks = len(module.down.blocks) // 2, [*module.down.blocks, *module.up.blocks]
    else:
        down, blocks = 0, list(module.blocks.blocks)
    s4, feed_forward = blocks[::2], blocks[1::2]
    H = feed_forward[0].contract.out_features
    return PackedTier(
        down,
        s4[0].layer.glu,
        _pack_norms([block.norm for block in blocks], H),
        _pack_spaces([block.layer.ssm for block in s4]),
        _pack_layers([block.layer.output for block in s4]),
        _pack_layers([block.expand for block in feed_forward]),
        _pack_layers([block.contract for block in feed_forward]),
        *_pack_pools(module, H),
    )


def _pack_pools(module: Module, H: int) -> tuple[PackedLinear, PackedLinear]:
    """To the next tier and from it. What came channel by channel comes sample by sample, with room for
    each."""
    if isinstance(module, sashimi.CenterTier):
        nothing = PackedLinear(np.zeros((0, 0, LANES), np.float32), np.zeros(0, np.float32))
        return nothing, nothing
    down, up = module.hourglass.down, module.hourglass.up
    gather = padded(to_float32_array(down.linear.weight).reshape(-1, H, down.pool).transpose(0, 2, 1), 2)
    scatter = padded(to_float32_array(up.linear.weight).reshape(H, up.pool, -1).transpose(1, 0, 2), 1)
    bias = padded(to_float32_array(up.linear.bias).reshape(H, up.pool).T, 1)
    return (
        PackedLinear(dense(gather.reshape(len(gather), -1)), padded(to_float32_array(down.linear.bias), 0)),
        PackedLinear(dense(scatter.reshape(-1, scatter.shape[2])), np.ascontiguousarray(bias.reshape(-1))),
    )


def _pack_norms(norms: list[nn.Module], H: int) -> Norms:
    rows = []
    for norm in norms:
        if isinstance(norm, ScalarNorm):
            rows.append((norm.m.expand(H), norm.s.expand(H), torch.zeros(H), torch.tensor(0.0)))
        else:
            assert isinstance(norm, nn.LayerNorm)
            rows.append((torch.zeros(H), norm.weight, norm.bias, torch.tensor(norm.eps)))
    return Norms(
        *(np.stack([to_float32_array(part) for part in column]) for column in zip(*rows, strict=True))
    )


def _pack_layers(layers: list[nn.Linear]) -> PackedLinear:
    matrices = np.stack([dense(to_float32_array(layer.weight)) for layer in layers])
    return PackedLinear(matrices, padded(np.stack([to_float32_array(layer.bias) for layer in layers]), 1))


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
        *(_grouped(to_float32_array(x)[:, None])[0] for x in (real_vector(R), system.C_row())),
        *(to_float32_array(x[0]) if shared else _grouped(to_float32_array(x)) for x in vectors),
        padded(to_float32_array((s[:, None, None] * G).permute(1, 2, 0)), 2),
        to_float32_array(space.D),
        to_float32_array(s),
    )


def _grouped(x: np.ndarray) -> np.ndarray:
    """(H, vectors, N) -> (vectors, groups, N, 16)."""
    x = padded(x, 0)
    return np.ascontiguousarray(x.reshape(len(x) // LANES, LANES, *x.shape[1:]).transpose(2, 0, 3, 1))


def _ungrouped(x: np.ndarray, H: int) -> np.ndarray:
    """(..., groups, N, 16) -> (..., H, N)."""
    *axes, groups, N, lanes = x.shape
    return np.moveaxis(x, -1, -2).reshape(*axes, groups * lanes, N)[..., :H, :]
