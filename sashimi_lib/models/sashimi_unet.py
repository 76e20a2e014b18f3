"""SaShiMi for diffusion: a U-Net of state spaces that hear the future too, told how noisy the sound is
(chapter 9; SaShiMi paper, sections 4.3 and 5.3).
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
from sashimi_lib.ssm.s4 import S4, Direction, Form, SSMConfig

FREE_SSM = SSMConfig(tied=False)  # all trains, each channel has its own: the published code after the paper
# The code of the paper: of each channel's own matrix Lambda + p q*, q alone trains.
PAPER_SSM = SSMConfig(form=Form.UNCONSTRAINED, tied=False, frozen=("Lambda", "p", "B", "log_dt"))


@dataclass(frozen=True, kw_only=True)
class SaShiMiUNetConfig(DenoiserConfig):
    """The shape of a SaShiMi for diffusion; the defaults are the published code's, 23.5M parameters.

    ``d_model`` to ``ff`` mean what they mean in `sashimi_lib.models.sashimi.SaShiMiConfig`, and raise what
    they raise there. ``direction`` is that of each `sashimi_lib.ssm.s4.S4`, and ``glu`` ends each of
    them in a gated linear unit.
    """

    d_model: int = 128
    n_layers: int = 6
    pool: tuple[int, ...] = (4, 4)
    expand: int = 2
    ff: int = 2
    glu: bool = True
    direction: Direction = "bidirectional"
    ssm: SSMConfig = FREE_SSM

    def __post_init__(self) -> None:
        super().__post_init__()
        SaShiMiConfig(self.d_model, self.n_layers, self.pool, self.expand, self.ff)  # checks them


# The paper's models: 23.0M and 7.5M parameters that train.
PAPER_UNET = SaShiMiUNetConfig(direction="concat", glu=False, ssm=PAPER_SSM)
PAPER_UNET_SMALL = replace(PAPER_UNET, d_model=64)


class UNetBlock(nn.Module):
    """``u = x + S4(norm(x) + conditioning) + frames``, then the feed-forward block ``u + W2 gelu(W1 norm(u))``.

    What it is told, and the frames of a spectrogram, come through a linear map of the block's own.

    >>> import torch
    >>> block = UNetBlock(4, SaShiMiUNetConfig())
    >>> block(torch.randn(2, 32, 4), torch.randn(2, 512)).shape
    torch.Size([2, 32, 4])

    Chapter: 9.
    """

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
        conditioning: Float[Tensor, "batch d_told"],
        frames: Float[Tensor, "batch length n_mels"] | None = None,
    ) -> Float[Tensor, "batch length H"]:
        """All samples at once."""
        y, _ = self.layer(self.norm(x) + self.conditioning(conditioning)[:, None])
        if self.frames is not None:
            y = y + self.frames(frames)
        return self.feed_forward(x + y)[0]


class UNetCenter(nn.Module):
    """The slowest tier: ``x + blocks(x)``."""

    def __init__(self, width: int, config: SaShiMiUNetConfig) -> None:
        super().__init__()
        self.blocks = _blocks(width, config)

    def forward(
        self,
        x: Float[Tensor, "batch length H"],
        conditioning: Float[Tensor, "batch d_told"],
        frames: Float[Tensor, "batch length n_mels"] | None,
    ) -> Float[Tensor, "batch length H"]:
        """All samples at once."""
        y = x
        for block in self.blocks:
            y = block(y, conditioning, frames)
        return x + y


class UNetStage(nn.Module):
    """Blocks, the slower tiers, and blocks again; a skip from before each part to after its mirror image.

    No shift: what comes of a frame is heard at once, since nothing here keeps a sample from those that follow
    it. A slower tier hears of a spectrogram the mean over each of its frames.

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
        conditioning: Float[Tensor, "batch d_told"],
        frames: Float[Tensor, "batch length n_mels"] | None,
    ) -> Float[Tensor, "batch length H"]:
        """All samples at once."""
        skips = [x]
        for block in self.before:
            x = block(x, conditioning, frames)
            skips.append(x)
        slow = None if frames is None else frames.unflatten(1, (-1, self.down.pool)).mean(2)
        x = self.up(self.slower(self.down(x), conditioning, slow)) + skips.pop()
        for block in self.after:
            x = block(x, conditioning, frames) + skips.pop()
        return x


class SaShiMiUNet(Denoiser):
    """One channel to ``d_model``, the tiers, and back to one channel, which begins at zero.

    >>> import torch
    >>> net = SaShiMiUNet(SaShiMiUNetConfig(d_model=4, n_layers=1))
    >>> net(torch.randn(2, 32), step=torch.tensor([0.0, 99.5]))
    tensor([[0., 0., ..., 0., 0.]], grad_fn=...)

    Chapter: 9. Raises ValueError for a length that ``frame`` does not divide or that is 0, for labels out of
    range or unasked for, and for features unasked for, missing or too few.
    """

    def __init__(self, config: SaShiMiUNetConfig = SaShiMiUNetConfig()) -> None:
        super().__init__()
        self.config = config
        self.frame = math.prod(config.pool)
        self.conditioning = ConditioningEmbedding(config)
        self.frames = ConditioningUpsampler(config.mel) if config.mel else None
        # Maps start as PyTorch starts them. The published code asks for larger ones, but after the weight
        # norm, where that has no effect; asked for before it, a short run gained nothing.
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
        """One number for each sample."""
        length = x.shape[1]
        if not length or length % self.frame:
            raise ValueError(f"x must have a length that {self.frame} divides, got {length} samples")
        conditioning, frames = (
            self.conditioning(step, label),
            upsample_conditioning(self.frames, features, length),
        )
        start = self.start(x[..., None]).to(x.dtype)  # the residual stream, which autocast must not round
        y = self.tiers(F.relu(start), conditioning, frames)
        return self.out(F.relu(self.hidden(self.norm(y))))[..., 0]


def _blocks(width: int, config: SaShiMiUNetConfig) -> nn.ModuleList:
    return nn.ModuleList(UNetBlock(width, config) for _ in range(config.n_layers))
