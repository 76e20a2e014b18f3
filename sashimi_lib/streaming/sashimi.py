"""SaShiMi's compiled sample loop: every tier at its rate, the head and sampling in one function (chapter 7).

`sashimi_lib.streaming.packed_tier` runs one tier. Here are the loop, and the packing of weights and states.
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
    jit,
    pack_dense,
    pad_axis,
    padded_size,
    to_float32_array,
)
from sashimi_lib.streaming.packed_heads import embed, head_workspace, pack_embedding, pack_head, sample_codes
from sashimi_lib.streaming.packed_tier import (
    PackedNorms,
    PackedSSM,
    PackedTier,
    TierState,
    Workspace,
    advance_phase,
    normalize,
    run_tier,
)
from sashimi_lib.streaming.vectors import LANES

Tier = sashimi.PooledTier | sashimi.UNetTier | sashimi.CenterTier


class SaShiMiLoop(CompiledLoop):
    """A compiled loop of a SaShiMi, its embedding and its head."""

    def __init__(self, model: AudioLM) -> None:
        assert isinstance(model.backbone, sashimi.SaShiMi)
        self.modules, self.dtype = list(_all_tiers(model.backbone.tiers)), model.backbone.norm.weight.dtype
        self.table, self.head = pack_embedding(model.embedding), pack_head(model.head)
        self.n_codes, self.levels = len(self.table), self.head.levels
        self.tiers = pack_contiguous(tuple(map(_pack_tier, self.modules)))
        self.norm = _pack_norms([model.backbone.norm], model.backbone.d_model)

    def pack_state(self, state: State) -> tuple[TierState, ...]:
        """Return the state of every tier, from the fastest to the slowest."""
        packed = []
        for module in self.modules:
            blocks, hourglass = _split_state(module, state)
            ssm = np.stack([_group_channels(to_float32_array(x).swapaxes(0, 1)) for x in blocks[::2]], axis=1)
            no_frame = torch.zeros(len(ssm), 0, 0)
            gathered, pending, phase, state = hourglass or (no_frame, no_frame, 0, None)
            frame = pad_axis(to_float32_array(gathered), 2), pad_axis(to_float32_array(pending), 2)
            packed.append(TierState(ssm, *frame, np.full(len(ssm), int(phase))))
        return pack_contiguous(tuple(packed))

    def unpack_state(self, state: tuple[TierState, ...]) -> State:
        """Return the nested state of the model."""
        nested: State = None
        for module, tier, packed in reversed(list(zip(self.modules, self.tiers, state, strict=True))):
            H, hourglass = tier.ssm.D.shape[1], None
            if not isinstance(module, sashimi.CenterTier):
                frame = (self._tensor(part[..., :H]) for part in (packed.gathered, packed.pending))
                hourglass = (*frame, torch.tensor(int(packed.phase[0])), nested)
            ssm = map(self._tensor, np.moveaxis(_ungroup_channels(packed.ssm, H), 1, 0))
            blocks = tuple(part for x in ssm for part in (x, ()))  # a feed-forward block has an empty state
            nested = _join_state(module, blocks, hourglass)
        return nested

    def run(self, codes: np.ndarray, state: tuple[TierState, ...], request: SamplingRequest) -> bool:
        """Fill ``codes`` after the first sample, which is the input."""
        workspace = pack_contiguous(self._workspace(len(codes)))
        return _loop(codes, state, request, self.table, self.tiers, self.norm, self.head, workspace)

    def _workspace(self, batch_size: int) -> Workspace:
        layers = [layer for tier in self.tiers for layer in (tier.output, tier.expand, tier.contract)]
        width = max(layer.bias.shape[1] for layer in layers)
        pairs, rank = self.tiers[0].ssm.G.shape[:2]
        x, y, hidden = np.zeros((3, batch_size, width), np.float32)
        scratch = np.zeros((1 + 2 * rank, width), np.float32)
        return Workspace(x, y, hidden, scratch, np.zeros((1 + 2 * pairs, batch_size, width), np.float32))

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x.copy()).to(self.dtype)


@jit
@no_type_check
def _loop(codes, state, request, table, tiers, norm, head, workspace):
    batch, H = len(codes), table.shape[2]
    y = np.zeros((batch, padded_size(H)), np.float32)
    buffers = head_workspace(batch, head)
    for t in range(codes.shape[1] - 1):
        embed(codes, t, table, workspace.x)
        for n in range(len(tiers)):
            run_tier(tiers[n], state[n], workspace)
            if n == 0:
                normalize(workspace.x, norm, 0, y)
            else:
                affine(tiers[n - 1].up_pool, workspace.x, state[n - 1].pending.reshape(batch, -1))
            if not advance_phase(state[n]):
                break
            affine(tiers[n].down_pool, state[n].gathered.reshape(batch, -1), workspace.x)
        if not sample_codes(head, y, request, t, buffers, codes):
            return False
    return True


def _all_tiers(module: Any) -> Iterator[Tier]:
    """Yield a tier and all slower ones."""
    yield module
    if not isinstance(module, sashimi.CenterTier):
        yield from _all_tiers(module.hourglass.inner)


def _split_state(module: Tier, state: State) -> tuple[tuple[State, ...], State]:
    """Return the states of a tier's blocks, in their order, and that of its hourglass."""
    match module:
        case sashimi.CenterTier():
            return state[0], None
        case sashimi.PooledTier():
            return state[1], state[0]
    depth = len(module.down.blocks)
    return state[:depth] + state[depth + 1 :], state[depth]


def _join_state(module: Tier, blocks: tuple[State, ...], hourglass: State) -> State:
    """Return the state of a tier; the inverse of `_split_state`."""
    match module:
        case sashimi.CenterTier():
            return (blocks,)
        case sashimi.PooledTier():
            return hourglass, blocks
    depth = len(module.down.blocks)
    return *blocks[:depth], hourglass, *blocks[depth:]


def _pack_tier(module: Tier) -> PackedTier:
    if isinstance(module, sashimi.UNetTier):
        n_down, blocks = len(module.down.blocks) // 2, [*module.down.blocks, *module.up.blocks]
    else:
        n_down, blocks = 0, list(module.blocks.blocks)
    s4, feed_forward = blocks[::2], blocks[1::2]
    H = feed_forward[0].contract.out_features
    return PackedTier(
        n_down,
        s4[0].layer.glu,
        _pack_norms([block.norm for block in blocks], H),
        _pack_ssms([block.layer.ssm for block in s4]),
        _pack_layers([block.layer.output for block in s4]),
        _pack_layers([block.expand for block in feed_forward]),
        _pack_layers([block.contract for block in feed_forward]),
        *_pack_pools(module, H),
    )


def _pack_pools(module: Tier, H: int) -> tuple[PackedLinear, PackedLinear]:
    """Return the down-pool and the up-pool of a tier, over frames sample by sample instead of channel by
    channel, with each sample padded."""
    if isinstance(module, sashimi.CenterTier):
        empty = PackedLinear(np.zeros((0, 0, LANES), np.float32), np.zeros(0, np.float32))
        return empty, empty
    down, up = module.hourglass.down, module.hourglass.up
    to_coarse = to_float32_array(down.linear.weight).reshape(-1, H, down.pool).transpose(0, 2, 1)
    to_fine = to_float32_array(up.linear.weight).reshape(H, up.pool, -1).transpose(1, 0, 2)
    to_coarse, to_fine = pad_axis(to_coarse, 2), pad_axis(to_fine, 1)
    coarse_bias = pad_axis(to_float32_array(down.linear.bias), 0)
    fine_bias = pad_axis(to_float32_array(up.linear.bias).reshape(H, up.pool).T, 1)
    return (
        PackedLinear(pack_dense(to_coarse.reshape(len(to_coarse), -1)), coarse_bias),
        PackedLinear(
            pack_dense(to_fine.reshape(-1, to_fine.shape[2])), np.ascontiguousarray(fine_bias.reshape(-1))
        ),
    )


def _pack_norms(norms: list[nn.Module], H: int) -> PackedNorms:
    rows = []
    for norm in norms:
        if isinstance(norm, ScalarNorm):
            rows.append((norm.m.expand(H), norm.s.expand(H), torch.zeros(H), torch.tensor(0.0)))
        else:
            assert isinstance(norm, nn.LayerNorm)
            rows.append((torch.zeros(H), norm.weight, norm.bias, torch.tensor(norm.eps)))
    return PackedNorms(
        *(np.stack([to_float32_array(part) for part in column]) for column in zip(*rows, strict=True))
    )


def _pack_layers(layers: list[nn.Linear]) -> PackedLinear:
    matrices = np.stack([pack_dense(to_float32_array(layer.weight)) for layer in layers])
    return PackedLinear(matrices, pad_axis(np.stack([to_float32_array(layer.bias) for layer in layers]), 1))


def _pack_ssms(ssms: list[StateSpace]) -> PackedSSM:
    R, C, B, p, q, G, D, s = (np.stack(column) for column in zip(*map(_pack_ssm, ssms), strict=True))
    p, q = (x.swapaxes(0, 1) for x in (p, q))
    return PackedSSM(R, C, B[:, 0], tuple(p), q, G, D, s)


@torch.no_grad()
def _pack_ssm(ssm: StateSpace) -> tuple[np.ndarray, ...]:
    """Return R, C, B, p, q, s G, D and s of one block; B, p and q have a leading axis for the rank."""
    Lambda, p, _, B, _, dt = system = ssm.system()
    if ssm.config.form is Form.DIAGONAL:
        s = torch.ones_like(dt)
        R = torch.exp(dt[:, None] * Lambda) + 1
        B = (R - 2) / Lambda * B / R
    else:
        s = dt / 2
        R = 2 / (1 - s[:, None] * Lambda)
    half_q, I = system.q_row() / 2, torch.eye(p.shape[-1], dtype=dt.dtype)
    G = torch.linalg.inv(I - s[:, None, None] * half_q @ real_columns(R[..., None] * p))
    vectors = [real_vector(B)[:, None], real_columns(p).mT, half_q]  # (H, rank, 2 M)
    shared = ssm.config.tied and ssm.config.form is not Form.DIAGONAL
    return (
        *(_group_channels(to_float32_array(x)[:, None])[0] for x in (real_vector(R), system.C_row())),
        *(to_float32_array(x[0]) if shared else _group_channels(to_float32_array(x)) for x in vectors),
        pad_axis(to_float32_array((s[:, None, None] * G).permute(1, 2, 0)), 2),
        to_float32_array(ssm.D),
        to_float32_array(s),
    )


def _group_channels(x: np.ndarray) -> np.ndarray:
    """Group channels by sixteen: (H, vectors, N) -> (vectors, groups, N, 16)."""
    x = pad_axis(x, 0)
    return np.ascontiguousarray(x.reshape(len(x) // LANES, LANES, *x.shape[1:]).transpose(2, 0, 3, 1))


def _ungroup_channels(x: np.ndarray, H: int) -> np.ndarray:
    """Undo `_group_channels`: (..., groups, N, 16) -> (..., H, N)."""
    *axes, groups, N, lanes = x.shape
    return np.moveaxis(x, -1, -2).reshape(*axes, groups * lanes, N)[..., :H, :]
