"""Resampling of whole waveforms and of streams of blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib import audio
from tests.audio_files import sine
from tests.awkward import good_waveforms


@given(good_waveforms(), st.integers(1, 60), st.integers(1, 60))
def test_resampling_gives_the_documented_length_within_full_scale(x: torch.Tensor, a: int, b: int) -> None:
    y = audio.resample(x, a, b)
    assert len(y) == -(-len(x) * b // a)
    audio.check_waveform(y)


@pytest.mark.parametrize(
    ("rate_in", "rate_out"), [(44100, 16000), (8000, 16000), (22050, 8000), (11025, 48000)]
)
def test_resampling_preserves_a_sine(rate_in: int, rate_out: int) -> None:
    resampled, expected = audio.resample(sine(440, rate_in), rate_in, rate_out), sine(440, rate_out)
    inner = slice(len(expected) // 10, len(expected) * 9 // 10)  # without the zero-padded edges
    assert (resampled[inner] - expected[inner]).abs().max() < 2e-3


def test_resampling_removes_frequencies_above_the_new_nyquist_frequency() -> None:
    assert audio.rms_db(audio.resample(sine(6000, 16000), 16000, 8000)[100:-100]) < -50


@given(
    length=st.integers(1, 3_000),
    size=st.integers(1, 2_000),
    rates=st.sampled_from(
        [(48_000, 16_000), (44_100, 16_000), (8_000, 16_000), (3, 2), (1, 7), (101, 16), (5, 5)]
    ),
)
def test_a_resampled_stream_equals_the_resampled_waveform(
    length: int, size: int, rates: tuple[int, int]
) -> None:
    x = torch.rand(length) * 2 - 1
    blocks = list(audio.resample_stream((block.numpy() for block in x.split(size)), *rates))
    assert np.abs(np.concatenate(blocks) - audio.resample(x, *rates).numpy()).max() < 1e-6
