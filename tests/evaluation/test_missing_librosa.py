"""Measures that need librosa say which extra to install where it is missing."""

import pytest
import torch

from sashimi_lib.evaluation.noise import quiet_flatness
from sashimi_lib.evaluation.onsets import onset_times
from sashimi_lib.evaluation.pitch import notes, pitch_track
from sashimi_lib.evaluation.words import words


@pytest.mark.parametrize("measure", [onset_times, notes, pitch_track, quiet_flatness, words])
def test_a_missing_librosa_is_reported_with_the_extra_to_install(measure, without_package):
    without_package("librosa")
    with pytest.raises(ImportError, match=r'pip install "sashimi_lib\[evaluation\]"'):
        measure(torch.zeros(8_000), 8_000)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(300), r"waveform must be one clip of at least 0.\d+ s at 8000 Hz, got shape \(300,\)"),
        (torch.full((8_000,), 2.0), r"waveform must lie in \[-1, 1\]"),
        (torch.full((8_000,), torch.nan), "waveform must be finite"),
    ],
)
@pytest.mark.parametrize("measure", [onset_times, notes, pitch_track, quiet_flatness, words])
def test_invalid_waveforms_are_refused_by_name(measure, waveform, message):
    with pytest.raises(ValueError, match=message):
        measure(waveform, 8_000)
