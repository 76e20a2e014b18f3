"""The level of noise between partials is that of the noise that was added."""

import math

import pytest
import torch

from sashimi_lib.evaluation.noise import (
    harmonics_to_noise,
    noise_between_partials,
    partials_and_noise,
    quiet_flatness,
)
from tests.evaluation.melodies import RATE, hertz_of, random_melody, render, tone, white_noise


def sines(pitches, seconds=4, rate=RATE, db=-20):
    """Harmonic tones of four partials each, together at a level of ``db`` dBFS."""
    time = torch.arange(seconds * rate, dtype=torch.float64) / rate
    waveform = sum(
        torch.sin(2 * torch.pi * k * hertz_of(pitch) * time + k) / k for pitch in pitches for k in range(1, 5)
    )
    return (10 ** (db / 20) * waveform / waveform.square().mean().sqrt()).float()


@pytest.mark.parametrize("snr", range(0, 61, 10))
@pytest.mark.parametrize("pitches", [(60,), (60, 64, 67, 74)])
def test_sines_in_white_noise_have_their_ratio(pitches, snr):
    waveform = sines(pitches) + white_noise(-20 - snr, 4)
    assert harmonics_to_noise(waveform, RATE) == pytest.approx(snr, abs=1)
    assert noise_between_partials(waveform, RATE) == pytest.approx(-20 - snr, abs=1)


def test_another_sample_rate_makes_no_difference():
    waveform = sines((48, 60, 64), rate=16_000) + white_noise(-50, 4, rate=16_000)
    assert harmonics_to_noise(waveform, 16_000) == pytest.approx(30, abs=1)


def test_the_ratio_does_not_depend_on_the_level_and_the_noise_does():
    waveform = sines((60,)) + white_noise(-50, 4)
    assert harmonics_to_noise(0.1 * waveform, RATE) == pytest.approx(harmonics_to_noise(waveform, RATE))
    assert noise_between_partials(0.1 * waveform, RATE) == pytest.approx(
        noise_between_partials(waveform, RATE) - 20, abs=0.01
    )


@pytest.mark.parametrize("fmin", [0.0, 1_000.0, 3_000.0])
def test_noise_above_a_frequency_has_its_share_of_the_band(fmin):
    dense = sum(sines((pitch / 10,), db=-40) for pitch in range(360, 400))  # partials closer than the bins
    waveform = (sines((72,)) if fmin == 0 else dense) + white_noise(-40, 4)
    share_db = 10 * math.log10(1 - fmin / (RATE / 2))
    assert noise_between_partials(waveform, RATE, fmin) == pytest.approx(-40 + share_db, abs=1)


@pytest.mark.parametrize("fmin", [-1.0, RATE / 2])
def test_a_frequency_outside_the_band_is_refused(fmin):
    with pytest.raises(ValueError, match="fmin must lie in"):
        noise_between_partials(torch.zeros(RATE), RATE, fmin)


def test_the_power_of_the_signal_is_that_of_the_waveform():
    waveform = sines((60, 64)) + white_noise(-30, 4)
    signal = partials_and_noise(waveform, RATE).signal
    assert 10 * math.log10(signal.mean()) == pytest.approx(10 * math.log10(waveform.square().mean()), abs=0.3)


@pytest.mark.parametrize("db", [-50, -40, -30])
def test_the_noise_of_a_melody_is_that_which_was_added(db):
    pitches, onsets = random_melody(30)
    waveform = render(pitches, onsets, onsets[-1] + 1)
    noisy = waveform + white_noise(db, len(waveform) / RATE)
    assert noise_between_partials(noisy, RATE) == pytest.approx(db, abs=3)
    assert noise_between_partials(noisy, RATE) > noise_between_partials(waveform, RATE)


def test_pure_tones_have_little_noise_and_pure_noise_no_partials():
    assert harmonics_to_noise(sines((60, 64, 67)), RATE) > 70
    assert harmonics_to_noise(white_noise(-20, 4), RATE) < -10
    assert harmonics_to_noise(torch.zeros(RATE), RATE) == pytest.approx(-20)
    assert noise_between_partials(torch.zeros(RATE), RATE) == pytest.approx(-120)


def test_silent_seconds_do_not_count():
    waveform = sines((60,)) + white_noise(-40, 4)
    assert len(partials_and_noise(torch.cat([waveform, torch.zeros(4 * RATE)]), RATE).signal) in (4, 5)
    assert harmonics_to_noise(torch.cat([waveform, torch.zeros(3 * RATE)]), RATE) == pytest.approx(20, abs=1)


def test_less_than_a_window_is_refused():
    with pytest.raises(ValueError, match=r"waveform must be one clip of at least 0.2 s at 8000 Hz"):
        harmonics_to_noise(torch.zeros(1_000), RATE)


def test_quiet_frames_are_flat_if_they_are_noise():
    """A loud tone, which would not be flat, is followed by a pause with noise of a hundredth of it."""
    pause = torch.cat([sines((69,), seconds=2), torch.zeros(RATE)])
    flat = quiet_flatness(pause + white_noise(-60, 3), RATE)
    assert -3 < flat < -2
    fading = tone(440, 3, decay=2).float() / 2
    assert quiet_flatness(fading + white_noise(-90, 3), RATE) < -20
    assert quiet_flatness(torch.zeros(RATE), RATE) == 0


def test_white_noise_has_the_flatness_of_its_fluctuations():
    """The mean logarithm of an exponential variable of mean 1 is minus Euler's constant."""
    assert quiet_flatness(white_noise(-20, 20), RATE) == pytest.approx(-10 * 0.5772 / math.log(10), abs=0.2)
