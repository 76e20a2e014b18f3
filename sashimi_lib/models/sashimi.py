"""SaShiMi: state space models at several sampling rates (chapter 6; SaShiMi paper, section 4.2)."""

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from sashimi_lib.checks import at_least
from sashimi_lib.models.backbone import Backbone, BackboneConfig
from sashimi_lib.models.blocks import (
    Advance,
    Composite,
    FeedForward,
    Norm,
    S4Block,
    SequenceModel,
    Stack,
    State,
)
from sashimi_lib.models.pooling import DownPool, Hourglass, UpPool
from sashimi_lib.registry import register
from sashimi_lib.ssm.s4 import PAPER_SSM, Direction, SSMConfig


@register
@dataclass(frozen=True)
class SaShiMiConfig(BackboneConfig):
    """Configuration of a SaShiMi; the defaults are the paper's 8-layer model, 4.05M parameters with 256
    levels.

    The bidirectional form is a published variant for comparison; it cannot generate.
    """

    d_model: int = 64  # Channels of the top tier.
    n_layers: int = 8  # Pairs of S4 and feed-forward blocks per tier.
    pool: tuple[int, ...] = (4, 4)  # Pooling factor of each lower tier.
    expand: int = 2  # Factor of channels from a tier to the one below.
    ff: int = 2  # Width of feed-forward blocks as a multiple of the channels.
    glu: bool = False  # Gated linear unit after each S4.
    unet: bool = False  # U-Net: blocks before pooling too, and skip connections around them.
    bidirectional: bool = False  # Two-sided S4 kernels, not causal; needs --model.unet.
    norm: Norm = "scalar"  # Normalization of each block.
    ssm: SSMConfig = PAPER_SSM  # State spaces of the S4 layers.

    def __post_init__(self) -> None:
        at_least(self, 1, "d_model", "n_layers", "expand", "ff")
        if not self.pool:
            raise ValueError("pool must hold a factor for each lower tier, got ()")
        at_least(self, 2, "pool")
        if self.bidirectional and not self.unet:
            raise ValueError("bidirectional must come with unet=True: the autoregressive form is causal")

    def build(self) -> "SaShiMi":
        """Return a new `SaShiMi`."""
        return SaShiMi(self)


class CenterTier(Composite):
    """The slowest tier: ``x + blocks(x)``."""

    def __init__(self, blocks: Stack) -> None:
        super().__init__()
        self.blocks = blocks

    def _parts(self) -> list[Any]:
        return [self.blocks]

    def _run(self, advance: Advance, x: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
        y, states[0] = advance(self.blocks, x, states[0])
        return x + y, states


class PooledTier(Composite):
    """A tier of the autoregressive form: ``u = x + hourglass(x)``, then ``u + blocks(u)``."""

    def __init__(self, hourglass: Hourglass, blocks: Stack) -> None:
        super().__init__()
        self.hourglass, self.blocks = hourglass, blocks

    def _parts(self) -> list[Any]:
        return [self.hourglass, self.blocks]

    def _run(self, advance: Advance, x: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
        pooled, states[0] = advance(self.hourglass, x, states[0])
        u = x + pooled
        y, states[1] = advance(self.blocks, u, states[1])
        return u + y, states


class UNetTier(Composite):
    """A tier of the U-Net form: blocks before and after the hourglass, and a skip connection from the input
    of each to the output of its mirror image."""

    def __init__(self, down: Stack, hourglass: Hourglass, up: Stack) -> None:
        super().__init__()
        self.down, self.hourglass, self.up = down, hourglass, up

    def _parts(self) -> list[Any]:
        return [*self.down._parts(), self.hourglass, *self.up._parts()]

    def _run(self, advance: Advance, x: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
        skips, depth = [x], len(self.down.blocks)
        for i, part in enumerate(self._parts()):
            x, states[i] = advance(part, x, states[i])
            if i < depth:
                skips.append(x)
            else:
                x = x + skips.pop()
        return x, states


class SaShiMi(Backbone):
    """The SaShiMi backbone: (d_model, L) -> (2 d_model, L/4) -> (4 d_model, L/16) and back, then a layer
    norm.

    >>> import torch
    >>> model = SaShiMi(SaShiMiConfig(d_model=8, n_layers=1))
    >>> y, _ = model(torch.randn(1, 32, 8))
    >>> y_0, state = model.step(torch.randn(1, 8), model.initial_state(1))
    >>> y.shape, y_0.shape
    (torch.Size([1, 32, 8]), torch.Size([1, 8]))

    Chapter: 6. Raises ValueError for a whole sequence whose length is not a multiple of ``frame``; chunks,
    with a state, may have any length.
    """

    def __init__(self, config: SaShiMiConfig = SaShiMiConfig()) -> None:
        super().__init__()
        self.config = config
        self.d_model = config.d_model
        self.frame = math.prod(config.pool)
        self.tiers = _tier(config, 0)
        self.norm = nn.LayerNorm(config.d_model)

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first sample."""
        return self.tiers.initial_state(batch_size)

    def forward(
        self, x: Float[Tensor, "batch length d_model"], state: State = None
    ) -> tuple[Float[Tensor, "batch length d_model"], State]:
        """Process a whole sequence, or a chunk that follows ``state``; without one the next state is None."""
        y, state = self.tiers(x, state)
        return self.norm(y), state

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: State
    ) -> tuple[Float[Tensor, "batch d_model"], State]:
        """Process one sample: every fourth reaches the second tier, every sixteenth the third."""
        y, state = self.tiers.step(x_t, state)
        return self.norm(y), state


def _tier(config: SaShiMiConfig, level: int) -> Composite:
    width = config.d_model * config.expand**level
    if level == len(config.pool):
        return CenterTier(_blocks(config, width))
    pool = config.pool[level]
    normed = not config.unet  # as published: weight norm on the pools of the autoregressive form alone
    hourglass = Hourglass(
        DownPool(width, width * config.expand, pool, normed),
        _tier(config, level + 1),
        UpPool(width * config.expand, width, pool, normed),
        causal=True,
    )
    if config.unet:
        return UNetTier(_blocks(config, width), hourglass, _blocks(config, width))
    return PooledTier(hourglass, _blocks(config, width))


def _blocks(config: SaShiMiConfig, width: int) -> Stack:
    blocks: list[SequenceModel] = []
    direction: Direction = "bidirectional" if config.bidirectional else "causal"
    for _ in range(config.n_layers):
        blocks.append(S4Block(width, config.ssm, config.glu, config.norm, direction))
        blocks.append(FeedForward(width, config.ff, config.norm))
    return Stack(blocks)
