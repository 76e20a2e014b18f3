"""DiffWave: a WaveNet that hears both ways, the backbone that SaShiMi is measured against (chapter 9).

It is a convolutional network throughout, and so keeps channels before time, as convolutions want them.
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
    """The shape of a DiffWave; the defaults are the paper's, 24.1M parameters.

    Dilations run 1, 2, 4 ... and start again after every ``cycle`` layers. ``DiffWaveConfig(d_residual=128,
    n_layers=30, cycle=10)`` is the paper's small one, 6.8M parameters. Raises ValueError for a setting below
    1.

    >>> DiffWaveConfig().receptive_field
    24571
    """

    d_residual: int = 256
    d_skip: int = 256
    n_layers: int = 36
    cycle: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "d_residual", "d_skip", "n_layers", "cycle")

    @property
    def dilations(self) -> tuple[int, ...]:
        """How far each layer looks to both sides, in samples."""
        return tuple(2 ** (n % self.cycle) for n in range(self.n_layers))

    @property
    def receptive_field(self) -> int:
        """How many samples one output hears, its own and as many on either side: ``1 + 2 sum(dilations)``."""
        return 1 + 2 * sum(self.dilations)

    def build(self) -> "DiffWave":
        """A new `DiffWave`."""
        return DiffWave(self)


def _conv(d_in: int, d_out: int, dilation: int | None = None) -> nn.Module:
    """A convolution of one tap, or of three ``dilation`` apart; weight-normed."""
    taps = 1 if dilation is None else 3
    conv = nn.Conv1d(d_in, d_out, taps, dilation=dilation or 1, padding=dilation or 0)
    # Before the weight norm, which would undo it: in the published code it comes after, so that PyTorch's own
    # start stays, smaller by a factor of sqrt(6). In 160 steps of a small model the loss came to 0.13 this
    # way, to 0.16 that way.
    nn.init.kaiming_normal_(conv.weight)
    return weight_norm(conv)


class DilatedLayer(nn.Module):
    """``z = tanh(a) sigmoid(b)`` with ``[a, b] = conv(x + conditioning)``, then on to ``(x + R z) sqrt(1/2)``.

    Beside that it gives ``S z``, what it adds to the sum of all layers. Frames of a spectrogram are mapped to
    a and b too, and added there.

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
        # R and S as one map. Weight norm goes row by row, so that this is the same as one of each.
        self.out = _conv(d, d + config.d_skip)

    def forward(
        self,
        x: Float[Tensor, "batch d_residual length"],
        conditioning: Float[Tensor, "batch d_told"],
        frames: Float[Tensor, "batch length n_mels"] | None = None,
    ) -> tuple[Float[Tensor, "batch d_residual length"], Float[Tensor, "batch d_skip length"]]:
        """The next layer's input, and the skip."""
        h = self.gates(x + self.conditioning(conditioning)[..., None])
        if self.frames is not None and frames is not None:
            h = h + self.frames(frames.mT)
        filtered, gate = h.chunk(2, dim=1)
        out = self.out(filtered.tanh() * gate.sigmoid()).to(x.dtype)  # both sums in full, also under autocast
        residual, skip = out.split(self.widths, dim=1)
        return (x + residual) * math.sqrt(1 / 2), skip


class DiffWave(Denoiser):
    """All layers in turn; of the sum of their skips two convolutions make the answer, which begins at zero.

    >>> import torch
    >>> net = DiffWave(DiffWaveConfig(d_residual=8, d_skip=8, n_layers=4, cycle=4))
    >>> net(torch.randn(2, 100), step=torch.tensor([0.0, 99.5])).shape
    torch.Size([2, 100])

    Beyond both ends of a waveform every layer hears zeros. The residual map of the last layer has no
    influence on the output; the published model has it and counts it, so this one does too.

    Chapter: 9. DiffWave paper (Kong et al., 2021), section 3. Raises ValueError for an empty waveform, for
    labels out of range or unasked for, and for features unasked for, missing or too few.
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
        """One number for each sample."""
        length = x.shape[1]
        if not length:
            raise ValueError(f"x must hold at least one sample, got shape {tuple(x.shape)}")
        conditioning, frames = (
            self.conditioning(step, label),
            upsample_conditioning(self.frames, features, length),
        )
        h, skips = F.relu(self.start(x[:, None]).to(x.dtype)), x.new_zeros(())
        for layer in self.layers:
            h, skip = layer(h, conditioning, frames)
            skips = skips + skip
        return self.end(skips * math.sqrt(1 / len(self.layers)))[:, 0]
