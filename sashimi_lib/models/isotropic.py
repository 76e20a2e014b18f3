"""Isotropic S4: the blocks of SaShiMi at one rate, the baseline without pooling (chapter 6)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from sashimi_lib.checks import at_least
from sashimi_lib.models.backbone import Backbone, BackboneConfig
from sashimi_lib.models.blocks import FeedForward, Norm, S4Block, SequenceModel, Stack, State
from sashimi_lib.registry import register
from sashimi_lib.ssm.s4 import PAPER_SSM, SSMConfig


@register
@dataclass(frozen=True)
class IsotropicConfig(BackboneConfig):
    """Configuration of an `IsotropicS4`; the defaults are the paper's 8-layer model (table 5)."""

    d_model: int = 256  # Channels of all layers.
    n_layers: int = 8  # Pairs of S4 and feed-forward blocks.
    ff: int = 4  # Width of feed-forward blocks as a multiple of the channels.
    glu: bool = True  # Gated linear unit after each S4.
    norm: Norm = "scalar"  # Normalization of each block.
    ssm: SSMConfig = PAPER_SSM  # State spaces of the S4 layers.

    def __post_init__(self) -> None:
        at_least(self, 1, "d_model", "n_layers", "ff")

    def build(self) -> "IsotropicS4":
        """Return a new `IsotropicS4`."""
        return IsotropicS4(self)


class IsotropicS4(Backbone):
    """``n_layers`` pairs of an S4 block and a feed-forward block at full rate, then a layer norm.

    >>> import torch
    >>> IsotropicS4(IsotropicConfig(d_model=8, n_layers=1))(torch.randn(1, 10, 8))[0].shape
    torch.Size([1, 10, 8])

    Chapter: 6.
    """

    def __init__(self, config: IsotropicConfig = IsotropicConfig()) -> None:
        super().__init__()
        self.config = config
        self.d_model = config.d_model
        blocks: list[SequenceModel] = []
        for _ in range(config.n_layers):
            blocks.append(S4Block(config.d_model, config.ssm, config.glu, norm=config.norm))
            blocks.append(FeedForward(config.d_model, config.ff, config.norm))
        self.blocks = Stack(blocks)
        self.norm = nn.LayerNorm(config.d_model)

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first sample."""
        return self.blocks.initial_state(batch_size)

    def forward(
        self, x: Float[Tensor, "batch length d_model"], state: State = None
    ) -> tuple[Float[Tensor, "batch length d_model"], State]:
        """Process a whole sequence, or a chunk that follows ``state``; without one the next state is None."""
        y, state = self.blocks(x, state)
        return self.norm(y), state

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: State
    ) -> tuple[Float[Tensor, "batch d_model"], State]:
        """Process one sample."""
        y, state = self.blocks.step(x_t, state)
        return self.norm(y), state
