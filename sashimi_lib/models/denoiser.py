"""The interface of denoising networks, and the modules that embed their conditioning (chapter 9).

A `Denoiser` maps a noisy waveform to an estimate of its noise. It is conditioned on the diffusion step, and
optionally on a class label or on a mel spectrogram.
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
    """The conditioning of a denoiser, the same for every kind of network.

    The embedding of the diffusion step has three widths: sines and cosines, a hidden layer, the output.
    """

    d_step: tuple[int, int, int] = (128, 512, 512)  # Widths of the embedding of the diffusion step.
    n_classes: int = 0  # Classes of a class-conditional model; 0: unconditional.
    mel: LogMelConfig | None = None  # Spectrogram that a vocoder is conditioned on; None: no vocoder.

    def __post_init__(self) -> None:
        at_least(self, 1, "d_step")
        at_least(self, 0, "n_classes")
        if self.d_step[0] % 2 or self.d_step[0] < 4:
            raise ValueError(
                f"d_step must hold three widths, the first an even one of at least 4, got {self.d_step}"
            )


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig(ConditioningConfig, ABC):
    """The configuration of a denoiser: a frozen dataclass of plain values, registered with
    `sashimi_lib.registry.register` so that files can name it."""

    @abstractmethod
    def build(self) -> "Denoiser":
        """Build a new denoiser with this configuration as its ``config``."""


class Denoiser(nn.Module, ABC):
    """A network that maps noisy waveforms to an estimate of their noise or their velocity.

    The length of a waveform must be a multiple of ``frame``. ``step`` is a step of the noise schedule, from
    0, nearly clean; it may be fractional. A class-conditional model without a ``label`` is unconditional.
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
        """Return one value per sample.

        Raises ValueError for a length that is not a multiple of ``frame``, for a label or features that the
        model is not conditioned on, and for missing features.
        """


def step_embedding(step: Float[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """Return the sinusoidal embedding ``sin(step w_i), cos(step w_i)`` for ``dim / 2`` frequencies w from 1
    down to 1/10000.

    >>> step_embedding(torch.tensor([0.0]), 4)
    tensor([[0., 0., 1., 1.]])

    Chapter: 9. DiffWave paper (Kong et al., 2021), section 3.1.
    """
    half = dim // 2
    i = torch.arange(half, dtype=step.dtype, device=step.device)
    angle = step[:, None] * torch.exp(-math.log(10_000) / (half - 1) * i)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class ConditioningEmbedding(nn.Module):
    """Embed the step, and the class label if there are classes, in one vector for all blocks.

    >>> conditioning = ConditioningEmbedding(ConditioningConfig(d_step=(8, 16, 12), n_classes=10))
    >>> conditioning(torch.tensor([0.0, 99.5]), torch.tensor([3, 7])).shape
    torch.Size([2, 12])

    Chapter: 9. Raises ValueError for labels of a model without classes, and for labels out of range if they
    are on the CPU: on a GPU every step would synchronize for the check, and
    `sashimi_lib.diffusion.guidance.check_labels` makes it once.
    """

    def __init__(self, config: ConditioningConfig) -> None:
        super().__init__()
        self.config = config
        dim, hidden, out = config.d_step
        self.hidden, self.out = nn.Linear(dim, hidden), nn.Linear(hidden, out)
        # The last row embeds the null label, for unconditional estimates.
        self.classes = nn.Embedding(config.n_classes + 1, out) if config.n_classes else None

    def forward(
        self, step: Float[Tensor, " batch"], label: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch d_conditioning"]:
        """Map steps and labels (batch,) to (batch, d_conditioning)."""
        sinusoids = step_embedding(step, self.config.d_step[0]).to(self.hidden.weight.dtype)
        conditioning = F.silu(self.out(F.silu(self.hidden(sinusoids))))
        if self.classes is None:
            if label is not None:
                raise ValueError("label must be None: this model has no classes")
            return conditioning
        n = self.config.n_classes
        if label is None:
            label = torch.full_like(step, n, dtype=torch.long)
        if label.is_cpu and bool(((label < 0) | (label > n)).any()):
            raise ValueError(f"label must lie in 0..{n - 1}, or be {n} for none, got {label.tolist()}")
        return conditioning + self.classes(label)


def _upsampling_layer(factor: int) -> nn.ConvTranspose2d:
    """A transposed convolution that upsamples time by ``factor``, initialized to linear interpolation.

    A random initialization would pass a fiftieth of a spectrogram's contrast, and takes longer to train.
    """
    taps = 2 * factor - factor % 2  # so that the output is centered on the input
    layer = nn.ConvTranspose2d(1, 1, (3, taps), stride=(1, factor), padding=(1, factor // 2))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight[:, :, 1] = 1 - (torch.arange(taps) - (taps - 1) / 2).abs() / factor
    return layer


class ConditioningUpsampler(nn.Module):
    """Upsample a spectrogram to one frame per sample by two transposed convolutions over time and frequency.

    >>> mel = LogMelConfig(8_000, n_mels=20, hop=100, window=400)
    >>> ConditioningUpsampler(mel)(torch.zeros(2, 11, 20), length=950).shape
    torch.Size([2, 950, 20])

    Frame k is centered on sample ``k hop``; the initial weights interpolate linearly between frames. The
    first convolution upsamples by the largest divisor of the hop that does not exceed its square root, the
    second by the quotient. Chapter: 9. DiffWave paper, section 3.2. Raises ValueError for another number of
    bands, and for too few frames for the length.
    """

    def __init__(self, mel: LogMelConfig) -> None:
        super().__init__()
        self.mel = mel
        first = max(d for d in range(1, math.isqrt(mel.hop) + 1) if mel.hop % d == 0)
        self.stretch = nn.ModuleList(_upsampling_layer(factor) for factor in (first, mel.hop // first))

    def forward(
        self, features: Float[Tensor, "batch frames n_mels"], length: int
    ) -> Float[Tensor, "batch length n_mels"]:
        """Map (batch, frames, n_mels) to (batch, length, n_mels)."""
        hop, n_mels = self.mel.hop, self.mel.n_mels
        if features.shape[2] != n_mels or features.shape[1] * hop - hop // 2 < length:
            raise ValueError(
                f"features must have shape (batch, frames, {n_mels}), a frame every {hop} of {length} "
                f"samples, got {tuple(features.shape)}"
            )
        x = features.mT[:, None]
        for layer in self.stretch:
            x = F.leaky_relu(layer(x), 0.4)
        # In the input's dtype also under autocast: slower tiers take means of it.
        return x[:, 0, :, hop // 2 : hop // 2 + length].mT.to(features.dtype)


def upsample_conditioning(
    upsampler: ConditioningUpsampler | None,
    features: Float[Tensor, "batch frames n_mels"] | None,
    length: int,
) -> Float[Tensor, "batch length n_mels"] | None:
    """Upsample the features of a mel-conditioned denoiser; return None for one without an ``upsampler``.

    Raises ValueError for missing features, and for features of a model that is not mel-conditioned.
    """
    if upsampler is None:
        if features is not None:
            raise ValueError("features must be None: this model is not mel-conditioned")
        return None
    if features is None:
        raise ValueError("features must be given: this model is mel-conditioned")
    return upsampler(features, length)
