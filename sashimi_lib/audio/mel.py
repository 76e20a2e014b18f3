"""Log-mel spectrograms: the conditioning of vocoders, and features for evaluation (chapters 8 and 9).

The Fourier transform is PyTorch's, the mel filter bank librosa's (extra ``vocoder``). torchaudio has both,
but each of its releases requires one specific release of PyTorch.
"""

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sashimi_lib.audio.waveform import check_sample_rate, check_waveform
from sashimi_lib.checks import at_least
from sashimi_lib.registry import register
from sashimi_lib.ssm.precision import autocast_off


@register
@dataclass(frozen=True)
class LogMelConfig:
    """The frames and bands of a log-mel spectrogram. The default is Tacotron 2's:
    80 bands, 50 ms every 12.5 ms.
    """

    sample_rate: int = 24_000  # Sample rate in Hz.
    n_mels: int = 80  # Mel bands.
    hop: int = 300  # Samples between frames.
    window: int = 1_200  # Samples of a frame's window.

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that is out of range."""
        check_sample_rate(self.sample_rate)
        at_least(self, 1, "n_mels")
        at_least(self, 2, "window")
        if not 1 <= self.hop <= self.window // 2:
            raise ValueError(f"hop must lie in 1..{self.window // 2}, half a window, got {self.hop}")


TACOTRON = LogMelConfig()


def check_features(features: Float[Tensor, "batch frames n_mels"], config: LogMelConfig) -> None:
    """Raise ValueError unless ``features`` are finite, with ``config.n_mels`` bands and at least two frames.

    >>> check_features(torch.zeros(1, 2, 80), TACOTRON)

    Chapters: 8 and 9.
    """
    n_mels = config.n_mels
    if features.shape[1] < 2 or features.shape[2] != n_mels:
        raise ValueError(
            f"features must have shape (batch, at least 2 frames, {n_mels}), got {tuple(features.shape)}"
        )
    if not bool(features.isfinite().all()):
        raise ValueError("features must be finite, got NaN or infinite values")


class LogMel(nn.Module):
    """Compute a log-mel spectrogram: ``1 + log10(max(mel @ |STFT|, 1e-4)) / 2``.

    Values range from -1 (at least 80 dB below full scale) to about 1 (a full-scale sine). Frame k is centered
    on sample ``k * hop``; the waveform is zero-padded at both ends.

    >>> LogMel(LogMelConfig(8_000, n_mels=20, hop=100, window=400))(torch.zeros(1, 950)).shape
    torch.Size([1, 11, 20])

    Chapters: 8 and 9. Raises ImportError, naming the extra to install, if librosa is missing, and ValueError
    if bands are too narrow for the window.
    """

    mel: Tensor
    hann: Tensor

    def __init__(self, config: LogMelConfig = TACOTRON) -> None:
        super().__init__()
        try:
            from librosa.filters import mel
        except ImportError as error:
            raise ImportError('librosa is missing: pip install "sashimi_lib[vocoder]"') from error
        self.config = config
        with warnings.catch_warnings():  # about empty bands, which raise below
            warnings.simplefilter("ignore", UserWarning)
            bands = torch.from_numpy(
                mel(sr=config.sample_rate, n_fft=config.window, n_mels=config.n_mels, norm=None)
            )
        if not bool(bands.any(dim=1).all()):
            raise ValueError(
                f"n_mels must be small enough for a window of {config.window} samples to resolve every band, "
                f"got {config.n_mels}"
            )
        hann = torch.hann_window(config.window)
        self.register_buffer("mel", bands, persistent=False)
        self.register_buffer(
            "hann", 2 * hann / hann.sum(), persistent=False
        )  # scaled to the amplitude of a sine

    def forward(self, waveform: Float[Tensor, "batch length"]) -> Float[Tensor, "batch frames n_mels"]:
        """Return ``ceil(length / hop) + 1`` frames. Raises ValueError as `check_waveform` does."""
        check_waveform(waveform)
        hop, window = self.config.hop, self.config.window
        with autocast_off(waveform.device):  # the logarithm of small sums needs full precision
            x = F.pad(waveform.to(self.hann.dtype), (0, -waveform.shape[-1] % hop))
            spectrum = torch.stft(
                x, window, hop, window=self.hann, center=True, pad_mode="constant", return_complex=True
            )
            amplitude = self.mel @ spectrum.abs()
            return 1 + amplitude.clamp(min=1e-4).log10().mT / 2
