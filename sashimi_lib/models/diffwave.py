"""DiffWave: a bidirectional WaveNet, the baseline of SaShiMi for diffusion (chapter 9).

Activations are (batch, channels, length), the layout of convolutions.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from sashimi_lib.checks import at_least
from sashimi_lib.models.denoiser import (
    ConditioningEmbedding,
    ConditioningUpsampler,
    Denoiser,
    DenoiserConfig,
    upsample_conditioning,
)
from sashimi_lib.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class DiffWaveConfig(DenoiserConfig):
    """The configuration of a DiffWave; the defaults are the paper's, 24.1M parameters.

    Dilations run 1, 2, 4 ... and start again after every cycle. The paper's small one, 6.8M parameters, has
    128 channels in the residual stream, and 30 layers in cycles of 10.

    >>> DiffWaveConfig().receptive_field
    24571
    """

    d_residual: int = 256  # Channels of the residual stream.
    d_skip: int = 256  # Channels of the skip connections.
    n_layers: int = 36  # Dilated layers.
    cycle: int = 12  # Layers after which dilations start again at 1.

    def __post_init__(self) -> None:
        """Raise ValueError for a setting below 1."""
        super().__post_init__()
        at_least(self, 1, "d_residual", "d_skip", "n_layers", "cycle")

    @property
    def dilations(self) -> tuple[int, ...]:
        """The dilation of each layer, in samples."""
        return tuple(2 ** (n % self.cycle) for n in range(self.n_layers))

    @property
    def receptive_field(self) -> int:
        """The receptive field of an output, in samples: ``1 + 2 sum(dilations)``, centered on it."""
        return 1 + 2 * sum(self.dilations)

    def build(self) -> "DiffWave":
        """Build a new `DiffWave`."""
        return DiffWave(self)


def _conv(d_in: int, d_out: int, dilation: int | None = None) -> nn.Module:
    """A weight-normalized convolution with kernel size 1, or 3 with a ``dilation``."""
    taps = 1 if dilation is None else 3
    conv = nn.Conv1d(d_in, d_out, taps, dilation=dilation or 1, padding=dilation or 0)
    # Before the weight norm, which would undo it. The published code initializes after it, without effect,
    # and so keeps PyTorch's default, smaller by a factor of sqrt(6). In 160 steps of a small model the loss
    # came to 0.13 with this initialization, and to 0.16 with that one.
    nn.init.kaiming_normal_(conv.weight)
    return weight_norm(conv)


class DilatedLayer(nn.Module):
    """A gated dilated convolution with a residual and a skip output.

    ``z = tanh(a) sigmoid(b)`` with ``[a, b] = conv(x + conditioning)``. The residual output is ``(x + R z)
    sqrt(1/2)``, the skip output ``S z``. Upsampled features are projected and added to a and b.

    >>> import torch
    >>> layer = DilatedLayer(DiffWaveConfig(d_residual=4, d_skip=3, n_layers=1), dilation=2)
    >>> y, skip = layer(torch.randn(1, 4, 20), torch.randn(1, 512))
    >>> y.shape, skip.shape
    (torch.Size([1, 4, 20]), torch.Size([1, 3, 20]))

    Chapter: 9. DiffWave paper (Kong et al., 2021), section 3.
    """

    is_block = True

    def __init__(self, config: DiffWaveConfig, dilation: int) -> None:
        super().__init__()
        d = config.d_residual
        self.widths = (d, config.d_skip)
        self.conditioning = nn.Linear(config.d_step[-1], d)
        self.gates = _conv(d, 2 * d, dilation)
        self.frames = _conv(config.mel.n_mels, 2 * d) if config.mel else None
        # R and S in one convolution: weight norm is per row, so the result is that of two.
        self.out = _conv(d, d + config.d_skip)

    def forward(
        self,
        x: Float[Tensor, "batch d_residual length"],
        conditioning: Float[Tensor, "batch d_conditioning"],
        features: Float[Tensor, "batch length n_mels"] | None = None,
    ) -> tuple[Float[Tensor, "batch d_residual length"], Float[Tensor, "batch d_skip length"]]:
        """Return the input of the next layer, and the skip output."""
        h = self.gates(x + self.conditioning(conditioning)[..., None])
        if self.frames is not None and features is not None:
            h = h + self.frames(features.mT)
        filtered, gate = h.chunk(2, dim=1)
        out = self.out(filtered.tanh() * gate.sigmoid()).to(x.dtype)  # both sums in full precision
        residual, skip = out.split(self.widths, dim=1)
        return (x + residual) * math.sqrt(1 / 2), skip


class DiffWave(Denoiser):
    """The DiffWave network: dilated layers, and two convolutions of the sum of their skip outputs.

    >>> import torch
    >>> net = DiffWave(DiffWaveConfig(d_residual=8, d_skip=8, n_layers=4, cycle=4))
    >>> net(torch.randn(2, 100), step=torch.tensor([0.0, 99.5])).shape
    torch.Size([2, 100])

    The last convolution is initialized to zero, and so is the output. Every layer is zero-padded at both
    ends. The residual output of the last layer is unused; the published model has its weights and counts
    them, and so does this one.

    Chapter: 9. DiffWave paper (Kong et al., 2021), section 3. Raises ValueError for an empty waveform, for
    labels out of range or of a model without classes, and for features that are missing, too few, or of a
    model that is not mel-conditioned.
    """

    def __init__(self, config: DiffWaveConfig = DiffWaveConfig()) -> None:
        super().__init__()
        self.config = config
        self.conditioning = ConditioningEmbedding(config)
        self.frames = ConditioningUpsampler(config.mel) if config.mel else None
        self.start = _conv(1, config.d_residual)
        self.layers = nn.ModuleList(DilatedLayer(config, dilation) for dilation in config.dilations)
        last = nn.Conv1d(config.d_skip, 1, 1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.end = nn.Sequential(_conv(config.d_skip, config.d_skip), nn.ReLU(), last)

    def forward(
        self,
        x: Float[Tensor, "batch length"],
        step: Float[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
        features: Float[Tensor, "batch frames n_mels"] | None = None,
    ) -> Float[Tensor, "batch length"]:
        """Return one value per sample."""
        length = x.shape[1]
        if not length:
            raise ValueError(f"x must hold at least one sample, got shape {tuple(x.shape)}")
        conditioning = self.conditioning(step, label)
        upsampled = upsample_conditioning(self.frames, features, length)
        h, skips = F.relu(self.start(x[:, None]).to(x.dtype)), x.new_zeros(())
        for layer in self.layers:
            h, skip = layer(h, conditioning, upsampled)
            skips = skips + skip
        return self.end(skips * math.sqrt(1 / len(self.layers)))[:, 0]
