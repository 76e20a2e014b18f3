"""Log-mel features: position in time and frequency, and invalid input."""

import dataclasses
import math

import pytest
import torch

from sashimi_lib.audio.mel import LogMel, LogMelConfig

MEL = LogMelConfig(8_000, n_mels=10, hop=10, window=80)


def sine(hertz, seconds=0.1, amplitude=0.5):
    return amplitude * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * 8_000)) / 8_000)[None]


@pytest.mark.parametrize(("length", "frames"), [(1, 2), (10, 2), (11, 3), (100, 11), (101, 12)])
def test_there_is_a_frame_at_every_hop_and_one_after_the_end(length, frames):
    assert LogMel(MEL)(torch.zeros(3, length)).shape == (3, frames, 10)


def test_silence_is_minus_one_and_ten_times_the_amplitude_adds_one_half():
    features = LogMel(MEL)
    assert torch.equal(features(torch.zeros(1, 100)), torch.full((1, 11, 10), -1.0))
    quiet, loud = (features(sine(1_000, amplitude=a))[0, 40, :].max() for a in (0.1, 1.0))
    assert loud - quiet == pytest.approx(0.5, abs=1e-4)
    assert loud == pytest.approx(1, abs=0.1)


def test_the_band_of_a_sine_is_the_loudest():
    config = dataclasses.replace(MEL, n_mels=20, window=400, hop=100)
    features, loudest = LogMel(config), []
    for hertz in (300, 1_000, 3_000):
        band = features(sine(hertz, 0.5))[0, 20].argmax()
        bin_ = round(hertz / 8_000 * 400)
        assert features.mel[:, bin_].argmax() == band
        loudest.append(int(band))
    assert loudest == sorted(set(loudest))


@pytest.mark.parametrize("position", [0, 200, 405, 799])
def test_an_impulse_affects_only_the_frames_around_it(position):
    impulse = torch.zeros(1, 800)
    impulse[0, position] = 1.0
    affected = (LogMel(MEL)(impulse)[0] > -1).any(dim=-1).nonzero()[:, 0] * 10
    near = [k for k in range(0, 801, 10) if abs(k - position) < 40]
    assert affected.tolist() == near


def test_appended_silence_changes_no_frame():
    features, waveform = LogMel(MEL), sine(440, 0.0456)
    padded = torch.cat([waveform, torch.zeros(1, 123)], dim=1)
    unpadded = features(waveform)
    assert torch.allclose(features(padded)[:, : unpadded.shape[1]], unpadded, atol=1e-6)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(1, 0), "waveform must hold at least one sample"),
        (torch.tensor([[0.0, torch.nan]]), "waveform must be finite, got 1 NaN"),
        (torch.tensor([[0.0, 2.0]]), r"waveform must lie in \[-1, 1\]"),
    ],
)
def test_invalid_audio_is_named(waveform, message):
    with pytest.raises(ValueError, match=message):
        LogMel(MEL)(waveform)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_mels": 0}, "n_mels must be at least 1, got 0"),
        ({"n_mels": 70}, "n_mels must be small enough .* got 70"),
        ({"hop": 41}, r"hop must lie in 1\.\.40, half a window, got 41"),
        ({"sample_rate": 0}, "sample_rate must be"),
    ],
)
def test_invalid_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LogMel(dataclasses.replace(MEL, **settings))


def test_a_missing_librosa_is_reported_with_the_extra_to_install(without_package):
    without_package("librosa")
    with pytest.raises(ImportError, match=r'pip install "sashimi_lib\[vocoder\]"'):
        LogMel(MEL)
