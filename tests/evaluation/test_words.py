"""Words are cut at silences, at the level of the recording; real ones are known, other sounds mostly not."""

import pytest
import torch

from benchmarks.lib.corpus import load_words
from sashimi_lib.data.bundled import spoken_digits
from sashimi_lib.evaluation.classifier import load_classifier
from sashimi_lib.evaluation.words import known_share, word_probabilities, words

RATE = 8_000


def buzz(seconds):
    return 0.5 * torch.sin(torch.arange(round(seconds * RATE)) / 4)


def pause(seconds):
    return torch.zeros(round(seconds * RATE))


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_words_are_the_parts_between_silences(gain):
    lengths = [0.3, 0.5, 0.2]
    parts = [part for length in lengths for part in (pause(0.2), buzz(length))]
    found = words(gain * torch.cat(parts), RATE)
    assert [len(word) / RATE for word in found] == pytest.approx(lengths, abs=0.06)


def test_quiet_noise_counts_as_silence():
    waveform = torch.cat([buzz(0.3), pause(0.3), buzz(0.3), pause(0.3)])
    assert len(words(waveform + 0.005 * torch.randn(len(waveform)), RATE)) == 2


def test_a_short_gap_is_within_a_word_and_a_short_sound_is_none():
    assert len(words(torch.cat([pause(0.2), buzz(0.3), pause(0.06), buzz(0.3)]), RATE)) == 1
    assert len(words(torch.cat([pause(0.2), buzz(0.3), pause(0.3), buzz(0.03), pause(0.2)]), RATE)) == 1


def test_silence_has_no_words():
    assert words(pause(1), RATE) == []
    assert known_share(word_probabilities([], load_classifier())) == 0


def test_the_bundled_digits_are_cut_from_a_sequence_and_classified():
    clips = [clip.waveform / clip.waveform.abs().max() for clip in spoken_digits().values()]
    found = words(torch.cat([part for clip in clips for part in (pause(0.3), clip)]), RATE)
    assert len(found) == 10
    probability = word_probabilities(found, load_classifier())
    assert probability.shape == (10,)
    assert bool((probability > 0.5).all())


def test_the_share_counts_probabilities_from_the_threshold():
    assert known_share(torch.tensor([0.95, 0.96, 0.94, 0.5])) == 0.5


@pytest.fixture(scope="module")
def recordings(root):
    folder = root / "runs" / "data" / "digits" / "test"
    if not folder.is_dir():
        pytest.skip("needs the spoken digits in runs/data, which are not here")
    return load_words(folder, RATE)


def test_real_digits_are_known_after_cutting_and_mostly_not_backwards(recordings):
    voice = [word.waveform for word in recordings if word.speaker == "jackson"]
    found = words(torch.cat([part for word in voice for part in (pause(0.1), word)]), RATE)
    assert 48 <= len(found) <= 52
    classifier = load_classifier()
    assert known_share(word_probabilities(found, classifier)) > 0.9
    assert known_share(word_probabilities([word.flip(0) for word in voice], classifier)) < 0.5
    noise = [0.1 * torch.randn(3_200) for _ in range(50)]
    assert known_share(word_probabilities(noise, classifier)) == 0
