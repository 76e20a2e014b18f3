"""Isotropic S4: the same blocks at one rate, the flat model that SaShiMi is measured against (chapter 6)."""

from jaxtyping import Float
from torch import Tensor, nn

from sashimi_lib.models.blocks import Backbone, FeedForward, Norm, S4Block, Stack, State
from sashimi_lib.ssm.s4 import PAPER_SSM, SSMConfig


class IsotropicS4(Backbone):
    """``n_layers`` pairs of blocks at full rate, then a layer norm; the defaults are the paper's (table 5).

    >>> import torch
    >>> IsotropicS4(d_model=8, n_layers=1)(torch.randn(1, 10, 8))[0].shape
    torch.Size([1, 10, 8])

    Chapter: 6.
    """

    def __init__(
        self,
        d_model: int = 256,
        n_layers: int = 8,
        ff: int = 4,
        glu: bool = True,
        norm: Norm = "scalar",
        ssm: SSMConfig = PAPER_SSM,
    ) -> None:
        super().__init__()
        self.d_model, self.frame = d_model, 1  # any length goes
        pairs = [
            (S4Block(d_model, ssm, glu, norm=norm), FeedForward(d_model, ff, norm)) for _ in range(n_layers)
        ]
        self.blocks = Stack([block for pair in pairs for block in pair])
        self.norm = nn.LayerNorm(d_model)

    def initial_state(self, batch_size: int) -> State:
        """The state of silence."""
        return self.blocks.initial_state(batch_size)

    def forward(
        self, x: Float[Tensor, "batch length d_model"], state: State = None
    ) -> tuple[Float[Tensor, "batch length d_model"], State]:
        """All samples at once. Pass a state to go on from it and get the next one back."""
        y, state = self.blocks(x, state)
        return self.norm(y), state

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: State
    ) -> tuple[Float[Tensor, "batch d_model"], State]:
        """One sample."""
        y, state = self.blocks.step(x_t, state)
        return self.norm(y), state
