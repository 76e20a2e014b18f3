"""How much noise there is between the partials of a sound (chapter 11).

A spectrogram with a long window has partials in few of its bins, and noise in all of them. So the noise is
estimated from bins of low power: in each second and each band of 500 Hz, the power of a bin that only 10 % of
the bins fall below. Powers of Gaussian noise follow an exponential distribution, whose 10 % quantile is
-log(0.9) of its mean; divided by that, it is the mean power of the noise in a bin.

Nothing is assumed about the partials, such as one fundamental, so chords and ringing notes are permitted.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.signal import get_window
from torch import Tensor

from sashimi_lib.evaluation._librosa import as_array, import_librosa

WINDOW, HOP = 0.2, 0.05  # seconds, of a Blackman-Harris window, whose side lobes are below -92 dB
BAND = 500  # Hz
QUANTILE = 0.1
MIN_NOISE = 1e-12  # power: -120 dBFS
MIN_RATIO = 0.01  # of partials to noise: -20 dB
SOUNDING = 1e-4  # power, relative to the loudest second, below which a second is silent
QUIET = 0.25  # share of frames that are quiet
FLATNESS_WINDOW = 0.064  # seconds


class PartialsAndNoise(NamedTuple):
    """Power of the whole signal, and of its noise alone, in each second; 1 is that of a full-scale square
    wave."""

    signal: Float[Tensor, " seconds"]
    noise: Float[Tensor, " seconds"]


def partials_and_noise(
    waveform: Float[Tensor, " length"], sample_rate: int, fmin: float = 0.0
) -> PartialsAndNoise:
    """Return the power of a waveform and of its noise in each second that is not silent (40 dB below the
    loudest); of the noise at frequencies above ``fmin`` Hz alone.

    For white noise, with or without partials, the noise is unbiased. It is too high if partials reach most
    bins of a band: for dense chords at low frequencies, and for very many onsets a second. A vibraphone's
    tunes with white noise of -40, -50 and -60 dBFS are estimated at -39, -47 and -55 dBFS.

    >>> noise = 0.01 * torch.randn(32_000, generator=torch.Generator().manual_seed(0))
    >>> [round(10 * math.log10(power.mean())) for power in partials_and_noise(noise, 8_000)]
    [-40, -40]

    Chapter: 11. Raises ValueError for invalid audio, less than 0.2 s of it, and ``fmin`` at or above half the
    sample rate.
    """
    if not 0 <= fmin < sample_rate / 2:
        raise ValueError(f"fmin must lie in [0, {sample_rate / 2:g}), got {fmin}")
    power = _spectrogram(waveform, sample_rate)
    seconds = power.tensor_split(max(1, round(len(waveform) / sample_rate)))
    signal = torch.stack([second.sum(dim=1).mean() for second in seconds])
    noise = torch.stack([_noise_power(second, sample_rate, fmin) for second in seconds])
    sounding = signal >= SOUNDING * signal.max()
    return PartialsAndNoise(signal[sounding], noise[sounding])


def harmonics_to_noise(waveform: Float[Tensor, " length"], sample_rate: int) -> float:
    """Return the ratio of the power of the partials to that of the noise between them, in dB.

    The median over seconds that are not silent. For sines in white noise it is right to 1 dB from 0 to 60 dB;
    it is at least -20 dB, which pure noise and silence have, and at most about 80 dB.

    >>> time = torch.arange(32_000) / 8_000
    >>> noise = torch.randn(32_000, generator=torch.Generator().manual_seed(0))
    >>> round(harmonics_to_noise(0.2 * torch.sin(2_000 * time) + 0.2 / 2**0.5 * 0.01 * noise, 8_000))
    40

    Chapter: 11. Raises as `partials_and_noise` does.
    """
    signal, noise = partials_and_noise(waveform, sample_rate)
    return float((signal / noise - 1).clamp(min=MIN_RATIO).log10().median() * 10)


def noise_between_partials(waveform: Float[Tensor, " length"], sample_rate: int, fmin: float = 0.0) -> float:
    """Return the level of the noise between partials above ``fmin`` Hz, in dBFS (at least -120).

    The median over seconds that are not silent. For a piano, ``fmin`` should be above the partials of the
    bass, which are closer than the resolution of the spectrum.

    >>> noise_between_partials(torch.zeros(8_000), 8_000)
    -120.0

    Chapter: 11. Raises as `partials_and_noise` does.
    """
    return float(partials_and_noise(waveform, sample_rate, fmin).noise.log10().median() * 10)


def quiet_flatness(waveform: Float[Tensor, " length"], sample_rate: int) -> float:
    """Return the mean spectral flatness of the quietest quarter of frames in dB: 0 for white noise.

    Flatness is the geometric over the arithmetic mean of a power spectrum. Between notes, and while they
    fade, it tells noise from tones. Frames of zeros are left out; it is 0 if there are no others.

    >>> noise = 0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(0))
    >>> -3 < quiet_flatness(noise, 8_000) < -2  # of a single frame: its spectrum fluctuates
    True

    Chapter: 11. Computed by librosa. Raises ImportError, naming the extra to install, if librosa is missing;
    and ValueError for invalid audio, or less than 0.064 s of it.
    """
    librosa = import_librosa()
    y, window = as_array(waveform, sample_rate, FLATNESS_WINDOW), round(FLATNESS_WINDOW * sample_rate)
    spectrum = np.abs(librosa.stft(y, n_fft=window, hop_length=window // 4, center=False))
    rms = librosa.feature.rms(S=spectrum, frame_length=window)[0]
    spectrum, rms = spectrum[:, rms > 0], rms[rms > 0]
    if len(rms) == 0:
        return 0.0
    quiet = spectrum[:, rms <= np.quantile(rms, QUIET)]
    return float(np.mean(10 * np.log10(librosa.feature.spectral_flatness(S=quiet, amin=1e-20))))


def _spectrogram(waveform: Tensor, sample_rate: int) -> Float[Tensor, "frames bins"]:
    """Return the power in each bin; the sum over bins is the mean power of the windowed samples."""
    y = torch.from_numpy(as_array(waveform, sample_rate, WINDOW)).double()
    window = torch.from_numpy(get_window("blackmanharris", round(WINDOW * sample_rate)))
    frames = y.unfold(0, len(window), round(HOP * sample_rate))
    power = torch.fft.rfft(frames * window).abs().square() / (len(window) * window.square().sum())
    power[:, 1 : (len(window) + 1) // 2] *= 2  # the bins of negative frequency
    return power


def _noise_power(power: Float[Tensor, "frames bins"], sample_rate: int, fmin: float) -> Float[Tensor, ""]:
    power = power[:, int(fmin * WINDOW) :]  # bins are 1 / WINDOW apart
    bands = power.tensor_split(max(1, round(power.shape[1] / WINDOW / BAND)), dim=1)
    quantiles = [band.shape[1] * band.quantile(QUANTILE) for band in bands]
    return (torch.stack(quantiles).sum() / -math.log(1 - QUANTILE)).clamp(min=MIN_NOISE)
