"""SaShiMi for diffusion: a U-Net of bidirectional state spaces, conditioned on the diffusion step (chapter 9;
SaShiMi paper, sections 4.3 and 5.3).
"""

import math
from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from sashimi_lib.models.blocks import FeedForward, ScalarNorm
from sashimi_lib.models.denoiser import (
    ConditioningEmbedding,
    ConditioningUpsampler,
    Denoiser,
    DenoiserConfig,
    upsample_conditioning,
)
from sashimi_lib.models.pooling import DownPool, UpPool
from sashimi_lib.models.sashimi import SaShiMiConfig
from sashimi_lib.registry import register
from sashimi_lib.ssm.s4 import S4, Direction, Form, SSMConfig

FREE_SSM = SSMConfig(tied=False)  # all parameters train, per channel: the published code after the paper
# The code of the paper: of each channel's matrix Lambda + p q*, only q trains.
PAPER_SSM = SSMConfig(form=Form.UNCONSTRAINED, tied=False, frozen=("Lambda", "p", "B", "log_dt"))


@register
@dataclass(frozen=True, kw_only=True)
class SaShiMiUNetConfig(DenoiserConfig):
    """The configuration of a SaShiMi for diffusion; the defaults are the published code's, 23.5M parameters.

    Tiers are those of the autoregressive SaShiMi, with blocks on the way down too.
    """

    d_model: int = 128  # Channels of the top tier.
    n_layers: int = 6  # Blocks per tier and direction.
    pool: tuple[int, ...] = (4, 4)  # Pooling factor of each lower tier.
    expand: int = 2  # Factor of channels from a tier to the one below.
    ff: int = 2  # Width of feed-forward blocks as a multiple of the channels.
    glu: bool = True  # Gated linear unit after each S4.
    direction: Direction = "bidirectional"  # Direction of each S4: causal, bidirectional or concat.
    ssm: SSMConfig = FREE_SSM  # State spaces of the S4 layers.

    def __post_init__(self) -> None:
        super().__post_init__()
        SaShiMiConfig(self.d_model, self.n_layers, self.pool, self.expand, self.ff)  # checks them

    def build(self) -> "SaShiMiUNet":
        """Build a new `SaShiMiUNet`."""
        return SaShiMiUNet(self)


# The paper's models: 23.0M and 7.5M parameters that train.
PAPER_UNET = SaShiMiUNetConfig(direction="concat", glu=False, ssm=PAPER_SSM)
PAPER_UNET_SMALL = replace(PAPER_UNET, d_model=64)


class UNetBlock(nn.Module):
    """A residual S4 block with conditioning, and a feed-forward block.

    ``u = x + S4(norm(x) + conditioning) + features``, then ``u + W2 gelu(W1 norm(u))``. Each block has a
    linear projection for the conditioning vector, and one for the upsampled features.

    >>> import torch
    >>> block = UNetBlock(4, SaShiMiUNetConfig())
    >>> block(torch.randn(2, 32, 4), torch.randn(2, 512)).shape
    torch.Size([2, 32, 4])

    Chapter: 9.
    """

    is_block = True

    def __init__(self, width: int, config: SaShiMiUNetConfig) -> None:
        super().__init__()
        self.norm = ScalarNorm()
        self.conditioning = nn.Linear(config.d_step[-1], width)
        self.layer = S4(width, config.ssm, config.glu, config.direction)
        self.frames = weight_norm(nn.Linear(config.mel.n_mels, width)) if config.mel else None
        self.feed_forward = FeedForward(width, config.ff, normed=True)

    def forward(
        self,
        x: Float[Tensor, "batch length H"],
        conditioning: Float[Tensor, "batch d_conditioning"],
        features: Float[Tensor, "batch length n_mels"] | None = None,
    ) -> Float[Tensor, "batch length H"]:
        """Apply the block to a whole sequence."""
        y, _ = self.layer(self.norm(x) + self.conditioning(conditioning)[:, None])
        if self.frames is not None:
            y = y + self.frames(features)
        return self.feed_forward(x + y)[0]


class UNetCenter(nn.Module):
    """The slowest tier of the U-Net: ``x + blocks(x)``."""

    def __init__(self, width: int, config: SaShiMiUNetConfig) -> None:
        super().__init__()
        self.blocks = _blocks(width, config)

    def forward(
        self,
        x: Float[Tensor, "batch length H"],
        conditioning: Float[Tensor, "batch d_conditioning"],
        features: Float[Tensor, "batch length n_mels"] | None,
    ) -> Float[Tensor, "batch length H"]:
        """Apply the blocks to a whole sequence."""
        y = x
        for block in self.blocks:
            y = block(y, conditioning, features)
        return x + y


class UNetStage(nn.Module):
    """A tier of the U-Net: blocks, the slower tiers, and blocks, with symmetric skip connections.

    Unlike the autoregressive SaShiMi it does not shift upsampled frames, because it need not be causal.
    Slower tiers are conditioned on the mean of the features over each of their frames.

    Chapter: 9.
    """

    def __init__(self, config: SaShiMiUNetConfig, level: int = 0) -> None:
        super().__init__()
        width = config.d_model * config.expand**level
        coarse, pool = width * config.expand, config.pool[level]
        last = level + 1 == len(config.pool)
        self.before = _blocks(width, config)
        self.down = DownPool(width, coarse, pool, normed=True)
        self.slower = UNetCenter(coarse, config) if last else UNetStage(config, level + 1)
        self.up = UpPool(coarse, width, pool, normed=True)
        self.after = _blocks(width, config)

    def forward(
        self,
        x: Float[Tensor, "batch length H"],
        conditioning: Float[Tensor, "batch d_conditioning"],
        features: Float[Tensor, "batch length n_mels"] | None,
    ) -> Float[Tensor, "batch length H"]:
        """Apply the tier to a whole sequence."""
        skips = [x]
        for block in self.before:
            x = block(x, conditioning, features)
            skips.append(x)
        slow = None if features is None else features.unflatten(1, (-1, self.down.pool)).mean(2)
        x = self.up(self.slower(self.down(x), conditioning, slow)) + skips.pop()
        for block in self.after:
            x = block(x, conditioning, features) + skips.pop()
        return x


class SaShiMiUNet(Denoiser):
    """The SaShiMi network for diffusion: input projection, U-Net, and an output projection initialized to
    zero.

    >>> import torch
    >>> net = SaShiMiUNet(SaShiMiUNetConfig(d_model=4, n_layers=1))
    >>> net(torch.randn(2, 32), step=torch.tensor([0.0, 99.5]))
    tensor([[0., 0., ..., 0., 0.]], grad_fn=...)

    Chapter: 9. Raises ValueError for a length that is 0 or not a multiple of ``frame``, for labels out of
    range or of a model without classes, and for features that are missing, too few, or of a model that is
    not mel-conditioned.
    """

    def __init__(self, config: SaShiMiUNetConfig = SaShiMiUNetConfig()) -> None:
        super().__init__()
        self.config = config
        self.frame = math.prod(config.pool)
        self.conditioning = ConditioningEmbedding(config)
        self.frames = ConditioningUpsampler(config.mel) if config.mel else None
        # PyTorch's default initialization. The published code sets a larger one, but after the weight norm,
        # where it has no effect; before the weight norm it did not improve a short run.
        self.start = weight_norm(nn.Linear(1, config.d_model))
        self.tiers = UNetStage(config)
        self.norm = ScalarNorm()
        self.hidden = weight_norm(nn.Linear(config.d_model, config.d_model))
        self.out = nn.Linear(config.d_model, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        x: Float[Tensor, "batch length"],
        step: Float[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
        features: Float[Tensor, "batch frames n_mels"] | None = None,
    ) -> Float[Tensor, "batch length"]:
        """Return one value per sample."""
        length = x.shape[1]
        if not length or length % self.frame:
            raise ValueError(f"x must have a length that {self.frame} divides, got {length} samples")
        conditioning = self.conditioning(step, label)
        upsampled = upsample_conditioning(self.frames, features, length)
        start = self.start(x[..., None]).to(x.dtype)  # the residual stream, which autocast must not round
        y = self.tiers(F.relu(start), conditioning, upsampled)
        return self.out(F.relu(self.hidden(self.norm(y))))[..., 0]


def _blocks(width: int, config: SaShiMiUNetConfig) -> nn.ModuleList:
    return nn.ModuleList(UNetBlock(width, config) for _ in range(config.n_layers))
