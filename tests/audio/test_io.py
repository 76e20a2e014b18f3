"""Reading, decoding, encoding and writing audio files."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib import audio
from tests.audio_files import sine
from tests.awkward import good_waveforms


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_16_bit_files_round_trip_exactly(tmp_path: Path, suffix: str) -> None:
    values = torch.arange(-32768, 32768, dtype=torch.float32) / 32768
    audio.write(tmp_path / f"all.{suffix}", values, 16000)
    back, rate = audio.read(tmp_path / f"all.{suffix}")
    assert rate == 16000
    assert torch.equal(back, values)


@given(good_waveforms(), st.sampled_from(["wav", "flac"]))
def test_any_audio_round_trips_within_half_a_quantization_step(x: torch.Tensor, file_format: str) -> None:
    data, rate = soundfile.read(io.BytesIO(audio.encode_bytes(x, 11025, file_format)), dtype="float32")
    assert rate == 11025
    assert np.abs(np.atleast_1d(data) - x.clamp(max=32767 / 32768).numpy()).max() <= 0.5001 / 32768


@pytest.mark.parametrize("rate", audio.MP3_RATES)
def test_mp3_keeps_rate_duration_and_loudness(tmp_path: Path, rate: int) -> None:
    x = sine(440, rate, seconds=1)
    audio.write(tmp_path / "a.mp3", x, rate)
    back, rate_back = audio.read(tmp_path / "a.mp3")
    assert (rate_back, len(back)) == (rate, len(x))
    assert abs(audio.rms_db(back) - audio.rms_db(x)) < 0.3


def test_encoding_is_deterministic() -> None:
    x = sine(300, 16000)
    for file_format in ("wav", "flac", "mp3"):
        assert audio.encode_bytes(x, 16000, file_format) == audio.encode_bytes(x.clone(), 16000, file_format)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW"])
def test_every_sample_format_is_read_and_stereo_is_mixed_down(tmp_path: Path, subtype: str) -> None:
    left, right = sine(440, 22050).numpy(), sine(880, 22050).numpy()
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 22050, subtype=subtype)
    x, rate = audio.read(tmp_path / "a.wav")
    assert x.dtype == torch.float32
    assert (rate, x.shape) == (22050, (11025,))
    assert np.abs(x.numpy() - (left + right) / 2).max() < 0.02


def test_a_segment_equals_the_slice_of_the_whole_file(tmp_path: Path) -> None:
    x = torch.arange(1000, dtype=torch.float32) / 32768
    audio.write(tmp_path / "a.flac", x, 8000)
    assert torch.equal(audio.read(tmp_path / "a.flac", start=100, frames=50)[0], x[100:150])
    with pytest.raises(ValueError, match=r"a\.flac"):
        audio.read(tmp_path / "a.flac", start=1000)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_segment_of_an_mp3_equals_the_slice_of_the_whole_file(tmp_path: Path, rate: int) -> None:
    noise = 0.2 * torch.randn(6 * rate).clamp(-3, 3)
    audio.write(tmp_path / "a.mp3", noise, rate)
    whole, _ = audio.read(tmp_path / "a.mp3")
    for start in range(5000, 5 * rate, 30011):
        segment, _ = audio.read(tmp_path / "a.mp3", start=start, frames=4000)
        assert (segment - whole[start : start + 4000]).abs().max() < 1e-6


def test_files_without_valid_audio_are_named(tmp_path: Path) -> None:
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


def test_unknown_formats_and_mp3_rates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file_format must be"):
        audio.write(tmp_path / "a.aiff", torch.zeros(10), 8000)
    with pytest.raises(ValueError, match="for MP3, got 12345"):
        audio.encode_bytes(torch.zeros(10), 12345, "mp3")
