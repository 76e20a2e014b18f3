"""Pitches and notes of known melodies are found, with older notes ringing on and with noise."""

import librosa
import numpy as np
import pytest
import torch

from sashimi_lib.evaluation.pitch import PitchTrack, in_tune_share, notes, pitch_track
from tests.evaluation.melodies import RATE, hertz_of, random_melody, render, tone, white_noise


def correct(found, pitches, onsets):
    """How many of the notes were found: right pitch, at most 0.05 s from the onset."""
    return sum(
        any(note.pitch == pitch and abs(note.onset - onset) < 0.05 for note in found)
        for pitch, onset in zip(pitches, onsets, strict=True)
    )


@pytest.mark.parametrize("pitch", [55, 60, 69, 83])
@pytest.mark.parametrize("cents", [-45, 0, 12])
def test_a_tone_has_its_frequency_in_every_frame(pitch, cents):
    hertz = hertz_of(pitch, cents)
    track = pitch_track(0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(RATE) / RATE), RATE)
    assert float(1200 * (track.hertz / hertz).log2().abs().max()) < 2
    assert float(track.clarity.min()) > 0.95
    assert in_tune_share(track) == (abs(cents) <= 20)
    assert in_tune_share(track, tuning=cents) == 1


def test_a_melody_is_in_tune_where_it_is_tuned_to():
    pitches, onsets = random_melody(20)
    track = pitch_track(render(pitches, onsets, onsets[-1] + 1, tuning=40), RATE)
    assert in_tune_share(track, tuning=40) > 0.95
    assert in_tune_share(track) < 0.1


def test_overlapping_notes_are_in_tune_although_their_sum_has_no_period():
    pitches, onsets = random_melody(20, seed=1)
    waveform = render(pitches, onsets, onsets[-1] + 0.5)
    assert in_tune_share(pitch_track(waveform, RATE)) > 0.95
    hertz, voiced, _ = librosa.pyin(waveform.numpy(), fmin=180, fmax=1_400, sr=RATE, frame_length=1_024)
    semitones = librosa.hz_to_midi(hertz[voiced])
    assert np.mean(np.abs(semitones - np.round(semitones)) <= 0.2) < 0.8


def test_noise_and_silence_are_not_in_tune():
    assert in_tune_share(pitch_track(white_noise(-20, 3), RATE)) == 0
    assert in_tune_share(pitch_track(torch.zeros(RATE), RATE)) == 0


def test_silent_frames_do_not_count():
    half = torch.cat([tone(440, 1, decay=0).float() / 2, torch.zeros(2 * RATE)])
    track = pitch_track(half, RATE)
    assert 0.3 < float(track.sounding.double().mean()) < 0.5
    assert in_tune_share(track) > 0.95


def test_the_share_counts_clear_frames_within_twenty_cents():
    hertz = torch.tensor([hertz_of(69, cents) for cents in (0, 19, -19, 21, 0, 0)])
    clarity = torch.tensor([1, 0.31, 1, 1, 0.29, 1])
    sounding = torch.tensor([True, True, True, True, True, False])
    assert in_tune_share(PitchTrack(hertz, clarity, sounding)) == 3 / 5


@pytest.mark.parametrize("seed", range(3))
def test_the_notes_of_a_melody_are_found_while_older_ones_ring_on(seed):
    pitches, onsets = random_melody(40, seed)
    found = notes(render(pitches, onsets, onsets[-1] + 1), RATE)
    assert correct(found, pitches, onsets) >= 39
    assert len(found) <= 41


def test_durations_last_until_the_next_onset_or_the_end():
    found = notes(render([60, 64, 67], [0.2, 0.5, 1.1], 2), RATE)
    assert [note.pitch for note in found] == [60, 64, 67]
    assert [note.duration for note in found] == pytest.approx([0.3, 0.6, 0.9], abs=0.03)


def test_a_repeated_note_is_two_notes():
    assert [note.pitch for note in notes(render([72, 72, 72], [0.2, 0.5, 0.8], 2), RATE)] == [72, 72, 72]


def test_a_melody_out_of_tune_has_its_notes_at_its_tuning():
    pitches, onsets = random_melody(20, seed=2)
    waveform = render(pitches, onsets, onsets[-1] + 1, tuning=-45)
    assert correct(notes(waveform, RATE, tuning=-45), pitches, onsets) >= 19


def test_quiet_noise_changes_few_notes():
    pitches, onsets = random_melody(40)
    waveform = render(pitches, onsets, onsets[-1] + 1)
    noisy = waveform + white_noise(-45, len(waveform) / RATE)
    assert correct(notes(noisy, RATE), pitches, onsets) >= 38


def test_a_click_within_a_note_is_no_note():
    waveform = render([69], [0.2], 1.5)
    waveform[8_000] = 0.9
    assert [note.pitch for note in notes(waveform, RATE)] == [69]


def test_noise_and_silence_have_no_notes():
    assert len(notes(white_noise(-20, 5), RATE)) <= 1
    assert notes(torch.zeros(RATE), RATE) == []
