"""Onsets of known melodies are found at their times."""

import pytest
import torch

from sashimi_lib.evaluation.onsets import onset_times, onsets_per_second
from tests.evaluation.melodies import RATE, random_melody, render


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_every_onset_is_found_and_nothing_else(rate):
    pitches, expected = random_melody(30)
    found = onset_times(render(pitches, expected, expected[-1] + 1, rate=rate), rate)
    assert len(found) == 30
    assert float((found - torch.tensor(expected)).abs().max()) < 0.03


def test_a_chord_has_one_onset():
    chord = sum(render([pitch], [0.5], 2) for pitch in (60, 64, 67))
    assert len(onset_times(chord, RATE)) == 1


def test_the_rate_of_onsets_counts_them_per_second():
    onsets = [0.25 * k + 0.1 for k in range(16)]
    assert onsets_per_second(render([69] * 16, onsets, 8), RATE) == pytest.approx(2)
    assert onsets_per_second(torch.zeros(8_000), RATE) == 0
