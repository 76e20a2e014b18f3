"""Onsets: the times at which notes begin (chapter 11)."""

import torch
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.evaluation._librosa import as_array, import_librosa

WINDOW, HOP = 0.064, 0.008  # seconds, of the spectrogram
N_MELS = 64


def onset_times(waveform: Float[Tensor, " length"], sample_rate: int) -> Float[Tensor, " onsets"]:
    """Return the times in seconds at which notes begin, in ascending order. float64.

    An onset is a peak of the spectral flux: the increase of a log-mel spectrogram over two frames, relative
    to the maximum over three neighboring bands, so that vibrato is no onset. Of the notes of the folk tunes
    on a vibraphone (4 a second) it finds 98 %, about 0.014 s late, and nothing else. Peaks are relative to
    the strongest one: noise alone has a dozen a second.

    >>> time = torch.arange(8_000) / 8_000
    >>> note = torch.exp(-8 * time) * torch.sin(2 * torch.pi * 440 * time)
    >>> onset_times(torch.cat([torch.zeros(4_000), 0.5 * note]), 8_000)
    tensor([0.5...], dtype=torch.float64)

    Chapter: 11. Böck and Widmer, 2013 (SuperFlux); computed by librosa. Raises ImportError, naming the extra
    to install, if librosa is missing; and ValueError for invalid audio, or less than 0.064 s of it.
    """
    librosa = import_librosa()
    y, rate = as_array(waveform, sample_rate, WINDOW), sample_rate
    window, hop = round(WINDOW * rate), round(HOP * rate)
    flux = librosa.onset.onset_strength(
        y=y, sr=rate, n_fft=window, hop_length=hop, n_mels=N_MELS, lag=2, max_size=3
    )
    times = librosa.onset.onset_detect(onset_envelope=flux, sr=rate, hop_length=hop, units="time")
    return torch.from_numpy(times)


def onsets_per_second(waveform: Float[Tensor, " length"], sample_rate: int) -> float:
    """Return the number of onsets per second. Raises as `onset_times` does.

    >>> onsets_per_second(torch.zeros(8_000), 8_000)
    0.0

    Chapter: 11.
    """
    return len(onset_times(waveform, sample_rate)) * sample_rate / len(waveform)
