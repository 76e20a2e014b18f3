"""Name that note: only the first samples of a clip contain the answer."""

import pytest
import torch

from sashimi_lib.data.recall import FREQUENCIES, NOTES, SAMPLE_RATE, name_that_note


def clips(seed=0, **options):
    return name_that_note(64, generator=torch.Generator().manual_seed(seed), **options)


def dominant_frequency(waveforms, length):
    spectrum = torch.fft.rfft(waveforms[:, :length], n=8000).abs()
    return spectrum.argmax(-1) * SAMPLE_RATE / 8000


def test_the_spectrum_of_the_beginning_identifies_the_note():
    waveforms, notes = clips()
    expected = torch.tensor(FREQUENCIES)[notes]
    assert ((dominant_frequency(waveforms, 400) - expected).abs() < 10).all()
    assert set(notes.tolist()) == set(range(len(NOTES)))


def test_without_noise_the_clip_is_silent_after_the_note():
    waveforms, _ = clips(hiss=0.0)
    assert waveforms[:, :400].abs().amax(-1).min() > 0.2
    assert waveforms[:, 400:].abs().max() == 0


def test_the_same_seed_gives_the_same_clips():
    assert torch.equal(clips(3)[0], clips(3)[0])
    assert not torch.equal(clips(3)[0], clips(4)[0])


@pytest.mark.parametrize("length", [400, 401, 5000])
def test_clips_have_the_requested_length(length):
    waveforms, notes = clips(length=length)
    assert waveforms.shape == (64, length)
    assert waveforms.abs().max() <= 1
    assert notes.shape == (64,)


@pytest.mark.parametrize("note", [0, -5, 2401])
def test_a_note_longer_than_the_clip_is_refused(note):
    with pytest.raises(ValueError, match="note must be a duration from 1 to length = 2400"):
        name_that_note(2, note=note)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="batch must be at least 1 clip, got 0"):
        name_that_note(0)
