"""Validate waveforms, measure and normalize their loudness, and compute spectrograms.

A waveform is a float tensor whose last axis is time and whose values lie in [-1, 1]. Functions that take one
check this first, so that invalid audio is reported at the point of entry.

Chapter: 1.
"""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sashimi_lib.audio.decoder import MAX_SAMPLE_RATE


def check_waveform(waveform: Shaped[Tensor, "..."], name: str = "waveform") -> None:
    """Raise ValueError unless ``waveform`` is finite audio in [-1, 1] with at least one sample.

    ``name`` is the name of the argument in the message.

    >>> check_waveform(torch.zeros(16))
    >>> check_waveform(torch.tensor([0.0, 1.5]), "clip")
    Traceback (most recent call last):
        ...
    ValueError: clip must lie in [-1, 1], got values from 0 to 1.5; clip it or scale it first

    Chapter: 1.
    """
    if not isinstance(waveform, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(waveform).__name__}")
    if not waveform.is_floating_point():
        raise ValueError(f"{name} must be floating-point audio in [-1, 1], got dtype {waveform.dtype}")
    if waveform.ndim == 0 or waveform.numel() == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {tuple(waveform.shape)}")
    low, high = torch.stack(torch.aminmax(waveform.detach())).tolist()  # one transfer from a GPU
    if not (math.isfinite(low) and math.isfinite(high)):  # aminmax propagates NaN
        bad = int((~torch.isfinite(waveform)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite samples of {waveform.numel()}")
    if low < -1 or high > 1:
        raise ValueError(
            f"{name} must lie in [-1, 1], got values from {low:.4g} to {high:.4g}; clip it or scale it first"
        )


def check_sample_rate(sample_rate: int, name: str = "sample_rate") -> None:
    """Raise ValueError unless ``sample_rate`` is an integer from 1 to 1,000,000 Hz.

    >>> check_sample_rate(16000)

    Chapter: 1.
    """
    is_integer = isinstance(sample_rate, int) and not isinstance(sample_rate, bool)
    if not (is_integer and 1 <= sample_rate <= MAX_SAMPLE_RATE):
        raise ValueError(
            f"{name} must be a positive integer, at most {MAX_SAMPLE_RATE:,} Hz, got {sample_rate!r}"
        )


def rms_db(waveform: Float[Tensor, "*batch length"]) -> float:
    """Return the root-mean-square level in dBFS: 0 for a full-scale square wave, -inf for silence.

    >>> round(rms_db(torch.full((100,), 0.1)), 2)
    -20.0

    Chapter: 1.
    """
    check_waveform(waveform)
    rms = float(waveform.detach().double().square().mean().sqrt())
    return 20 * math.log10(rms) if rms > 0 else -math.inf


def normalize_loudness(
    waveform: Float[Tensor, "*batch length"], db: float | int = -23.0
) -> Float[Tensor, "*batch length"]:
    """Scale a waveform to an RMS level of ``db`` dBFS, or to the highest level that does not clip.

    Silence is unchanged. Raises ValueError for invalid audio or a level above 0 dBFS.

    >>> round(rms_db(normalize_loudness(torch.tensor([0.5, -0.5]), -20)), 2)
    -20.0

    Chapter: 1.
    """
    check_waveform(waveform)
    if not (math.isfinite(db) and db <= 0):
        raise ValueError(f"db must be a finite level of at most 0 dBFS, got {db}")
    level = rms_db(waveform)
    if level == -math.inf:
        return waveform
    gain = min(10 ** ((db - level) / 20), 1 / float(waveform.detach().abs().max()))
    return (waveform.double() * gain).clamp(-1, 1).to(waveform)  # in float32 a large gain would overflow


def fit_length(waveform: Float[Tensor, " samples"], length: int) -> Float[Tensor, " length"]:
    """Return a recording of one word as exactly ``length`` samples, with mean 0 and peak 1.

    If it is too long, its leading silence (below a twentieth of the peak) is cut as far as needed, then its
    end; if it is too short, it is padded with zeros. The peak is normalized because some speakers are 30 dB
    louder than others, which for a diffusion model would mean other noise levels. Silence stays silence.

    >>> fit_length(torch.tensor([0.0, 0.0, 0.1, -0.1]), 3)
    tensor([ 0.,  1., -1.])

    Chapter: 9. Raises ValueError for a length below 1, and a waveform that is empty or not finite.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if len(waveform) == 0 or not bool(waveform.isfinite().all()):
        raise ValueError(f"waveform must hold at least one sample, all finite, got {len(waveform)} samples")
    x = waveform - waveform.mean()
    x = x / x.abs().max().clamp(min=1e-4)
    silence = int((x.abs() > 0.05).int().argmax())
    x = x[min(silence, max(0, len(x) - length)) :][:length]
    return torch.nn.functional.pad(x, (0, length - len(x)))


def spectrogram_db(
    waveform: Float[Tensor, " length"], window: int = 512, hop: int = 128
) -> Float[Tensor, "frames bins"]:
    """Compute the magnitude spectrogram in dB: a short-time Fourier transform with a Hann window.

    Frame m is centered on sample m*hop and covers ``window`` samples (zero-padded at both ends of the clip),
    bin k is the frequency k * sample_rate / window, and a full-scale sine has 0 dB. Values are clamped to at
    least -120 dB.
    Raises ValueError for invalid audio, an odd or too small window, or a hop below 1.

    >>> spectrogram_db(torch.zeros(1024)).shape
    torch.Size([9, 257])

    Chapter: 1.
    """
    check_waveform(waveform)
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be one clip of shape (L,), got shape {tuple(waveform.shape)}")
    if window < 4 or window % 2 or hop < 1:
        raise ValueError(
            f"window must be even and at least 4, hop at least 1, got window={window}, hop={hop}"
        )
    w = torch.hann_window(window, dtype=torch.float64, device=waveform.device)
    padded = torch.nn.functional.pad(waveform.detach().double(), (window // 2, window // 2))
    spectrum = torch.fft.rfft(padded.unfold(0, window, hop) * w)
    amplitude = 2 * spectrum.abs() / w.sum()
    return (20 * torch.log10(amplitude.clamp_min(1e-6))).float()
