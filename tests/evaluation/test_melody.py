"""Keys, intervals and rhythms of notes agree with a count by hand."""

import itertools

import pytest
import torch

from sashimi_lib.evaluation.melody import (
    MAJOR,
    diatonic_chance,
    diatonic_share,
    duration_counts,
    histogram_distance,
    interval_counts,
    pooled_distance,
)
from sashimi_lib.evaluation.pitch import Note
from tests.awkward import without_shape_checks


def melody(pitches, durations=None):
    pitches = list(pitches)
    durations = durations or [0.25] * len(pitches)
    return [Note(pitch, 0.0, duration) for pitch, duration in zip(pitches, durations, strict=True)]


@pytest.mark.parametrize("tonic", range(12))
def test_a_scale_is_in_its_key_in_every_octave(tonic):
    pitches = [tonic + step + 12 * (step % 3) for step in MAJOR] * 3
    assert diatonic_share(melody(pitches)) == 1
    foreign = [tonic + 1, tonic + 6]
    assert diatonic_share(melody(pitches + foreign)) == pytest.approx(21 / 23)


def test_a_chromatic_scale_is_seven_twelfths_diatonic():
    assert diatonic_share(melody(range(60, 72))) == pytest.approx(7 / 12)


def test_notes_count_as_often_as_they_occur():
    assert diatonic_share(melody([60, 61, 62, 60, 60])) == pytest.approx(4 / 5)


def test_no_notes_are_in_no_key():
    assert diatonic_share([]) == 0


def test_two_random_notes_share_a_key_unless_they_never_do():
    """Every two pitch classes lie in a major scale together; of three, a chromatic cluster does not."""
    assert diatonic_chance(2) == 1
    fits = [
        any(all((pitch - tonic) % 12 in MAJOR for pitch in pitches) for tonic in range(12))
        for pitches in itertools.product(range(12), repeat=3)
    ]
    expected = sum(1 if fit else 2 / 3 for fit in fits) / len(fits)
    assert diatonic_chance(3) == pytest.approx(expected, abs=0.005)


def test_chance_falls_to_seven_twelfths_with_more_notes():
    chances = [diatonic_chance(count) for count in (4, 20, 100)] + [diatonic_chance(4_000, draws=20)]
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] == pytest.approx(7 / 12, abs=0.02)


def multinomial(probability, notes, recordings, seed):
    generator = torch.Generator().manual_seed(seed)
    draws = torch.multinomial(probability, notes * recordings, replacement=True, generator=generator)
    return torch.nn.functional.one_hot(draws.view(recordings, notes), len(probability)).sum(dim=1)


def test_the_pooled_distance_is_that_of_the_distributions_in_its_interval():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    expected = histogram_distance((1000 * p).long(), (1000 * q).long())
    found = [pooled_distance(multinomial(p, 50, 20, seed), (1000 * q).long()) for seed in range(40)]
    inside = [estimate.interval[0] <= expected <= estimate.interval[1] for estimate in found]
    assert sum(inside) >= 34
    assert sum(estimate.mean for estimate in found) / 40 == pytest.approx(expected, abs=0.005)


def test_few_recordings_have_no_interval():
    assert pooled_distance(torch.tensor([[1, 2], [2, 1]]), torch.tensor([3, 3])).interval is None


def test_a_count_below_one_is_refused():
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        diatonic_chance(0)


def test_intervals_are_counted_and_large_ones_clipped():
    counts = interval_counts(melody([60, 62, 60, 60, 80, 50]))
    assert {index - 12: int(count) for index, count in enumerate(counts) if count} == {
        -12: 1, -2: 1, 0: 1, 2: 1, 12: 1,
    }  # fmt: skip


def test_durations_are_counted_in_half_octaves_without_the_last():
    counts = duration_counts(melody([60] * 6, [0.01, 0.25, 0.3, 0.5, 100.0, 0.25]))
    assert {index: int(count) for index, count in enumerate(counts) if count} == {0: 1, 4: 2, 6: 1, 11: 1}


@pytest.mark.parametrize("pitches", [[], [60]])
def test_fewer_than_two_notes_have_no_intervals_and_durations(pitches):
    assert interval_counts(melody(pitches)).tolist() == [0] * 25
    assert duration_counts(melody(pitches)).tolist() == [0] * 12


def test_distances_of_histograms_have_their_known_values():
    a, b = torch.tensor([1, 1, 0]), torch.tensor([0, 1, 1])
    assert histogram_distance(a, 7 * a) == 0
    assert histogram_distance(a, b) == pytest.approx(0.5**0.5)  # half of the mass is apart: half a bit
    assert histogram_distance(a, b) == histogram_distance(b, a)
    assert histogram_distance(torch.tensor([1, 0]), torch.tensor([0, 2])) == 1
    assert histogram_distance(torch.tensor([0, 0]), torch.tensor([0, 2])) == 1


@pytest.mark.parametrize("b", [torch.tensor([1, 2, 3]), torch.tensor([1, -2])])
def test_histograms_that_do_not_fit_are_refused(b):
    message = r"b must have as many bins as a, no count negative, got \[1, 2\]"
    with pytest.raises(ValueError, match=message), without_shape_checks():
        histogram_distance(torch.tensor([1, 2]), b)
