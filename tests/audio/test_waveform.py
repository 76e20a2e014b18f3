"""Validation, loudness and spectrograms of waveforms."""

import math
import re

import pytest
import torch
from hypothesis import given

from sashimi_lib import audio
from tests.audio_files import sine
from tests.awkward import bad_waveforms, good_waveforms, without_shape_checks


@given(good_waveforms())
def test_valid_audio_passes_and_normalized_audio_stays_within_full_scale(x: torch.Tensor) -> None:
    audio.check_waveform(x)
    assert audio.rms_db(x) <= 1e-6
    louder = audio.normalize_loudness(x, -20)
    audio.check_waveform(louder)
    assert audio.rms_db(louder) <= -20 + 1e-3


@given(bad_waveforms())
def test_every_function_refuses_invalid_audio_and_names_the_fault(case: tuple[torch.Tensor, str]) -> None:
    bad, message = case
    calls = [
        lambda: audio.check_waveform(bad, "waveform"),
        lambda: audio.rms_db(bad),
        lambda: audio.normalize_loudness(bad),
        lambda: audio.resample(bad, 8000, 16000),
        lambda: audio.encode_bytes(bad, 8000),
        lambda: audio.spectrogram_db(bad),
    ]
    with without_shape_checks():
        for call in calls:
            with pytest.raises(ValueError, match="waveform must.*" + re.escape(message)):
                call()


def test_loudness_of_known_signals() -> None:
    assert audio.rms_db(torch.ones(10)) == 0
    assert audio.rms_db(torch.zeros(10)) == -math.inf
    assert audio.rms_db(sine(100, 8000, amplitude=1.0)) == pytest.approx(-3.01, abs=0.01)


def test_a_full_scale_sine_has_zero_db_in_its_bin() -> None:
    db = audio.spectrogram_db(sine(1000, 16000, amplitude=1.0), window=512, hop=128)
    assert db[20].argmax() == 1000 * 512 / 16000
    assert float(db[20].max()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("rate", [0, -8000, 8000.0, True, "8000", None])
def test_invalid_sample_rates_are_refused(rate: object) -> None:
    with without_shape_checks(), pytest.raises(ValueError, match="sample_rate must be a positive integer"):
        audio.encode_bytes(torch.zeros(10), rate)


def test_an_odd_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window must be even"):
        audio.spectrogram_db(torch.zeros(10), window=3)


@pytest.mark.parametrize(
    ("silence", "length", "begins"),
    [(0, 400, 0), (300, 400, 0), (300, 1_000, 0), (300, 5_000, 300), (3_000, 3_500, 2_500)],
)
def test_leading_silence_is_cut_only_as_far_as_needed(silence: int, length: int, begins: int) -> None:
    tone = 0.02 * torch.sin(0.3 * torch.arange(1, 1_001)) + 0.1  # a quiet one, and an offset
    word = audio.fit_length(torch.cat([torch.full((silence,), 0.1), tone]), length)
    assert len(word) == length
    assert float(word.abs().max()) == pytest.approx(1, abs=0.05)
    assert int((word.abs() > 0.1).int().argmax()) == begins
    assert not word[begins + 1_000 :].any()


def test_silence_stays_silence() -> None:
    assert torch.equal(audio.fit_length(torch.zeros(10), 20), torch.zeros(20))


@pytest.mark.parametrize(
    ("waveform", "length", "message"),
    [
        (torch.ones(4), 0, "length must be at least 1, got 0"),
        (torch.ones(0), 4, "waveform must hold at least one sample, all finite, got 0"),
        (torch.tensor([0.0, torch.nan]), 4, "waveform must hold at least one sample, all finite, got 2"),
    ],
)
def test_a_word_that_cannot_be_fitted_is_refused_by_name(
    waveform: torch.Tensor, length: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        audio.fit_length(waveform, length)
