"""What a diffusion model asks of its network, and how a network is told what to do (chapter 9).

A `Denoiser` hears a noisy waveform and says what is noise in it. It is told how noisy that is, and perhaps
which word it is or which spectrogram it has.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.checks import at_least


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """What a denoiser is told, the same for every kind of network.

    ``d_step`` are the widths on the way of the step: its sines and cosines, a hidden layer, and what every
    block is told. ``n_classes`` is the number of classes that sounds come in, 0 where there are none; ``mel``
    is the kind of spectrogram that is to be followed, None where there is none.
    """

    d_step: tuple[int, int, int] = (128, 512, 512)
    n_classes: int = 0
    mel: LogMelConfig | None = None

    def __post_init__(self) -> None:
        at_least(self, 1, "d_step")
        at_least(self, 0, "n_classes")
        if self.d_step[0] % 2 or self.d_step[0] < 4:
            raise ValueError(
                f"d_step must hold three widths, the first an even one of at least 4, got {self.d_step}"
            )


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig(ConditioningConfig, ABC):
    """The shape of a denoiser: a frozen dataclass of plain values, registered with
    `sashimi_lib.registry.register` so that files can name it."""

    @abstractmethod
    def build(self) -> "Denoiser":
        """A new denoiser of this shape, which keeps it as its ``config``."""


class Denoiser(nn.Module, ABC):
    """A network from noisy waveforms to what is asked of them: their noise, or their velocity.

    ``frame`` is what the length of a waveform must be a multiple of. ``step`` counts in the noise schedule's
    steps from 0, nearly clean, and need not be whole. Without a ``label`` a model of classes is told that the
    class is not known.
    """

    config: ConditioningConfig
    frame: int = 1

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "batch length"],
        step: Float[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
        features: Float[Tensor, "batch frames n_mels"] | None = None,
    ) -> Float[Tensor, "batch length"]:
        """One number for each sample. Raises ValueError for a length that ``frame`` does not divide, and
        where it is told what it has no ear for."""


def step_embedding(step: Float[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """``sin(step w_i), cos(step w_i)`` for ``dim / 2`` frequencies w from 1 down to 1/10000.

    >>> step_embedding(torch.tensor([0.0]), 4)
    tensor([[0., 0., 1., 1.]])

    Chapter: 9. DiffWave paper (Kong et al., 2021), section 3.1.
    """
    half = dim // 2
    i = torch.arange(half, dtype=step.dtype, device=step.device)
    angle = step[:, None] * torch.exp(-math.log(10_000) / (half - 1) * i)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class ConditioningEmbedding(nn.Module):
    """The step, and the class where there are classes, as one vector for every block.

    >>> conditioning = ConditioningEmbedding(ConditioningConfig(d_step=(8, 16, 12), n_classes=10))
    >>> conditioning(torch.tensor([0.0, 99.5]), torch.tensor([3, 7])).shape
    torch.Size([2, 12])

    Chapter: 9. Raises ValueError for labels where there are no classes, and for labels out of range that are
    on the CPU: on a GPU every step would wait for the check, which `sashimi_lib.diffusion.model` makes once.
    """

    def __init__(self, config: ConditioningConfig) -> None:
        super().__init__()
        self.config = config
        dim, hidden, out = config.d_step
        self.hidden, self.out = nn.Linear(dim, hidden), nn.Linear(hidden, out)
        # One row more than there are classes: "not known".
        self.classes = nn.Embedding(config.n_classes + 1, out) if config.n_classes else None

    def forward(
        self, step: Float[Tensor, " batch"], label: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch d_told"]:
        """Steps and labels (batch,) -> (batch, d_told)."""
        waves = step_embedding(step, self.config.d_step[0]).to(self.hidden.weight.dtype)
        conditioning = F.silu(self.out(F.silu(self.hidden(waves))))
        if self.classes is None:
            if label is not None:
                raise ValueError("label must be None: this model knows no classes")
            return conditioning
        n = self.config.n_classes
        if label is None:
            label = torch.full_like(step, n, dtype=torch.long)
        if label.is_cpu and bool(((label < 0) | (label > n)).any()):
            raise ValueError(f"label must lie in 0..{n - 1}, or be {n} for none, got {label.tolist()}")
        return conditioning + self.classes(label)


def _stretch(factor: int) -> nn.ConvTranspose2d:
    """``factor`` samples for one, that lie on straight lines until training moves them.

    A random start would let a fiftieth of a spectrogram's contrast through, and takes longer to train.
    """
    taps = 2 * factor - factor % 2  # as many as centre what comes out on what went in
    layer = nn.ConvTranspose2d(1, 1, (3, taps), stride=(1, factor), padding=(1, factor // 2))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight[:, :, 1] = 1 - (torch.arange(taps) - (taps - 1) / 2).abs() / factor
    return layer


class ConditioningUpsampler(nn.Module):
    """Frames of a spectrogram, stretched to one a sample by two transposed convolutions over time and pitch.

    >>> mel = LogMelConfig(8_000, n_mels=20, hop=100, window=400)
    >>> ConditioningUpsampler(mel)(torch.zeros(2, 11, 20), length=950).shape
    torch.Size([2, 950, 20])

    Frame k is centred on sample ``k hop``, and at first straight lines run from frame to frame. The first
    convolution stretches by the largest factor of the hop that is no larger than its root, the second by the
    rest. Chapter: 9. DiffWave paper, section 3.2. Raises ValueError for frames of another number of bands, or
    too few for the length.
    """

    def __init__(self, mel: LogMelConfig) -> None:
        super().__init__()
        self.mel = mel
        first = max(d for d in range(1, math.isqrt(mel.hop) + 1) if mel.hop % d == 0)
        self.stretch = nn.ModuleList(_stretch(factor) for factor in (first, mel.hop // first))

    def forward(
        self, features: Float[Tensor, "batch frames n_mels"], length: int
    ) -> Float[Tensor, "batch length n_mels"]:
        """(batch, frames, n_mels) -> (batch, length, n_mels)."""
        hop, n_mels = self.mel.hop, self.mel.n_mels
        if features.shape[2] != n_mels or features.shape[1] * hop - hop // 2 < length:
            raise ValueError(
                f"features must have shape (batch, frames, {n_mels}), a frame every {hop} of {length} "
                f"samples, got {tuple(features.shape)}"
            )
        x = features.mT[:, None]
        for layer in self.stretch:
            x = F.leaky_relu(layer(x), 0.4)
        return x[:, 0, :, hop // 2 : hop // 2 + length].mT.to(features.dtype)  # slower tiers hear means of it


def upsample_conditioning(
    frames: ConditioningUpsampler | None, features: Float[Tensor, "batch frames n_mels"] | None, length: int
) -> Float[Tensor, "batch length n_mels"] | None:
    """What a denoiser hears of its features: None where it has no ``frames`` to hear them by.

    Raises ValueError for features that are missing, and for features where there should be none.
    """
    if frames is None:
        if features is not None:
            raise ValueError("features must be None: this model follows no spectrogram")
        return None
    if features is None:
        raise ValueError("features must be given: this model follows a spectrogram, which is missing")
    return frames(features, length)
