"""Reading, writing, resampling, loudness, spectrograms."""

import io
import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib import audio
from tests.awkward import as_a_reader, bad_waveforms, good_waveforms


def sine(frequency: float, rate: int, seconds: float = 0.5, amplitude: float = 0.5) -> torch.Tensor:
    t = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (amplitude * torch.sin(2 * torch.pi * frequency * t)).float()


@given(good_waveforms())
def test_good_audio_passes_and_keeps_its_loudness_within_full_scale(x: torch.Tensor) -> None:
    audio.check_waveform(x)
    assert audio.rms_db(x) <= 1e-6
    louder = audio.normalize_loudness(x, -20)
    audio.check_waveform(louder)
    assert audio.rms_db(louder) <= -20 + 1e-3


@given(bad_waveforms())
def test_bad_audio_is_named_by_every_function(case: tuple[torch.Tensor, str]) -> None:
    bad, message = case
    calls = [
        lambda: audio.check_waveform(bad, "waveform"),
        lambda: audio.rms_db(bad),
        lambda: audio.normalize_loudness(bad),
        lambda: audio.resample(bad, 8000, 16000),
        lambda: audio.encode_bytes(bad, 8000),
        lambda: audio.spectrogram_db(bad),
    ]
    with as_a_reader():
        for call in calls:
            with pytest.raises(ValueError, match="waveform must.*" + re.escape(message)):
                call()


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_sixteen_bit_files_come_back_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    every = torch.arange(-32768, 32768, dtype=torch.float32) / 32768
    audio.write(tmp_path / f"all.{suffix}", every, 16000)
    back, rate = audio.read(tmp_path / f"all.{suffix}")
    assert rate == 16000
    assert torch.equal(back, every)


@given(good_waveforms(), st.sampled_from(["wav", "flac"]))
def test_any_audio_comes_back_within_half_a_step(x: torch.Tensor, kind: str) -> None:
    data, rate = soundfile.read(io.BytesIO(audio.encode_bytes(x, 11025, kind)), dtype="float32")
    assert rate == 11025
    assert np.abs(np.atleast_1d(data) - x.clamp(max=32767 / 32768).numpy()).max() <= 0.5001 / 32768


@pytest.mark.parametrize("rate", audio.MP3_RATES)
def test_mp3_keeps_rate_duration_and_loudness(tmp_path: Path, rate: int) -> None:
    x = sine(440, rate, seconds=1)
    audio.write(tmp_path / "a.mp3", x, rate)
    back, rate_back = audio.read(tmp_path / "a.mp3")
    assert (rate_back, len(back)) == (rate, len(x))
    assert abs(audio.rms_db(back) - audio.rms_db(x)) < 0.3


def test_equal_clips_give_equal_bytes() -> None:
    x = sine(300, 16000)
    for kind in ("wav", "flac", "mp3"):
        assert audio.encode_bytes(x, 16000, kind) == audio.encode_bytes(x.clone(), 16000, kind)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW"])
def test_every_depth_is_read_and_stereo_is_mixed_down(tmp_path: Path, subtype: str) -> None:
    left, right = sine(440, 22050).numpy(), sine(880, 22050).numpy()
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 22050, subtype=subtype)
    x, rate = audio.read(tmp_path / "a.wav")
    assert x.dtype == torch.float32
    assert (rate, x.shape) == (22050, (11025,))
    assert np.abs(x.numpy() - (left + right) / 2).max() < 0.02


def test_a_piece_of_a_file_is_the_piece_of_the_whole(tmp_path: Path) -> None:
    x = torch.arange(1000, dtype=torch.float32) / 32768
    audio.write(tmp_path / "a.flac", x, 8000)
    assert torch.equal(audio.read(tmp_path / "a.flac", start=100, frames=50)[0], x[100:150])
    with pytest.raises(ValueError, match=r"a\.flac"):
        audio.read(tmp_path / "a.flac", start=1000)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_piece_of_an_mp3_is_free_of_the_decoders_warm_up(tmp_path: Path, rate: int) -> None:
    noise = 0.2 * torch.randn(6 * rate).clamp(-3, 3)
    audio.write(tmp_path / "a.mp3", noise, rate)
    whole, _ = audio.read(tmp_path / "a.mp3")
    for start in range(5000, 5 * rate, 30011):
        piece, _ = audio.read(tmp_path / "a.mp3", start=start, frames=4000)
        assert (piece - whole[start : start + 4000]).abs().max() < 1e-6


def test_files_that_hold_no_audio_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    (tmp_path / "nothing.flac").write_bytes(b"")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan]), 8000, subtype="FLOAT")
    for name in ("text.wav", "nothing.flac", "empty.wav", "nan.wav"):
        with pytest.raises(ValueError, match=name):
            audio.read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="missing"):
        audio.read(tmp_path / "missing.wav")


@given(st.binary(max_size=300))
def test_any_bytes_give_a_waveform_or_a_named_error(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "any.wav")
        path.write_bytes(data)
        try:
            x, _ = audio.read(path)
        except ValueError as error:
            x, message = torch.zeros(1), str(error)
        else:
            message = "any.wav"
    audio.check_waveform(x)
    assert "any.wav" in message


@given(good_waveforms(), st.integers(1, 60), st.integers(1, 60))
def test_resampling_gives_the_promised_length_within_full_scale(x: torch.Tensor, a: int, b: int) -> None:
    y = audio.resample(x, a, b)
    assert len(y) == -(-len(x) * b // a)
    audio.check_waveform(y)


@pytest.mark.parametrize(
    ("rate_in", "rate_out"), [(44100, 16000), (8000, 16000), (22050, 8000), (11025, 48000)]
)
def test_resampling_keeps_a_tone(rate_in: int, rate_out: int) -> None:
    got, want = audio.resample(sine(440, rate_in), rate_in, rate_out), sine(440, rate_out)
    inner = slice(len(want) // 10, len(want) * 9 // 10)  # the filter knows nothing beyond the clip's two ends
    assert (got[inner] - want[inner]).abs().max() < 2e-3


def test_resampling_removes_what_the_new_rate_cannot_hold() -> None:
    assert audio.rms_db(audio.resample(sine(6000, 16000), 16000, 8000)[100:-100]) < -50


def test_loudness_of_known_signals() -> None:
    assert audio.rms_db(torch.ones(10)) == 0
    assert audio.rms_db(torch.zeros(10)) == -math.inf
    assert audio.rms_db(sine(100, 8000, amplitude=1.0)) == pytest.approx(-3.01, abs=0.01)


def test_a_full_scale_sine_reads_zero_db_in_its_own_bin() -> None:
    db = audio.spectrogram_db(sine(1000, 16000, amplitude=1.0), window=512, hop=128)
    assert db[20].argmax() == 1000 * 512 / 16000
    assert float(db[20].max()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("rate", [0, -8000, 8000.0, True, "8000", None])
def test_impossible_rates_are_refused(rate: object) -> None:
    with as_a_reader(), pytest.raises(ValueError, match="sample_rate must be a positive whole number"):
        audio.encode_bytes(torch.zeros(10), rate)


def test_formats_and_rates_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file_format must be"):
        audio.write(tmp_path / "a.aiff", torch.zeros(10), 8000)
    with pytest.raises(ValueError, match="for MP3, got 12345"):
        audio.encode_bytes(torch.zeros(10), 12345, "mp3")
    with pytest.raises(ValueError, match="window must be even"):
        audio.spectrogram_db(torch.zeros(10), window=3)
