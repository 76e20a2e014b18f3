"""Folders of one's own files: every kind, every rate, damaged ones, splits, segments."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib.audio import read, resample
from sashimi_lib.data.clips import AudioFile, ClipFolder, find_audio, split_files


def music(length: int, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(length + 30, channels)).cumsum(0)
    smooth = np.stack([np.convolve(c, np.hanning(31), "valid")[:length] for c in noise.T], 1)
    smooth -= smooth.mean(0)
    return 0.8 * smooth / np.abs(smooth).max()


def files(count: int) -> list[AudioFile]:
    return [AudioFile(Path(f"{number}.wav"), 16000, 16000) for number in range(count)]


def test_every_kind_of_file_gives_segments_of_one_shape(tmp_path: Path) -> None:
    kinds = [
        ("a.wav", 16000, 1, "PCM_16"),
        ("b.wav", 8000, 1, "PCM_U8"),
        ("c.wav", 44100, 2, "PCM_24"),
        ("d.flac", 11025, 1, "PCM_16"),
        ("e.mp3", 22050, 2, None),
        ("f.ogg", 48000, 2, None),
        ("g.WAV", 12345, 1, "FLOAT"),
    ]
    for name, rate, channels, subtype in kinds:
        (tmp_path / "deep").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "deep" / name, music(2 * rate, rate, channels), rate, subtype=subtype)
    (tmp_path / "notes.txt").write_text("not audio, not looked at")
    clips = ClipFolder(tmp_path, length=8000, sample_rate=16000)
    assert len(clips.files) == len(kinds)
    assert len(clips) == 4 * len(kinds)
    batch = torch.stack([clips[number] for number in range(len(clips))])
    assert batch.shape == (28, 8000)
    assert batch.dtype == torch.float32
    assert bool((batch.abs().amax(1) > 0.01).all())


@pytest.mark.parametrize("rate", [8000, 11025, 12345, 22050, 44100, 48000, 16000])
def test_segments_read_apart_are_the_whole_file_resampled(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.flac", music(3 * rate, rate), rate)
    whole = resample(*read(tmp_path / "a.flac"), 16000)
    clips = ClipFolder(tmp_path, length=5000, sample_rate=16000)
    assert len(clips) == len(whole) // 5000
    joined = torch.cat([clips[number] for number in range(len(clips))])
    assert (joined - whole[: len(joined)]).abs().max() < 1e-6


def test_damaged_files_are_named_and_left_out(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", music(16000, 16000), 16000)
    soundfile.write(tmp_path / "cut.flac", music(64000, 16000), 16000)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "text.mp3").write_text("hello")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.warns(UserWarning, match="left out 4 of 5 files") as caught:
        clips = ClipFolder(tmp_path, length=16000)
    for name in ("cut.flac", "zero.wav", "text.mp3", "empty.wav"):
        assert name in str(caught[0].message)
    assert [file.path.name for file in clips.files] == ["good.wav"]


def test_a_file_that_ends_early_is_named_when_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", music(16000, 16000), 16000)
    promised = AudioFile(tmp_path / "a.wav", 16000, 24000)
    clips = ClipFolder([promised], length=10000)
    assert clips[0].shape == (10000,)
    with pytest.raises(ValueError, match=r"a\.wav ends before the 24000 samples"):
        clips[1]


def test_short_files_are_named_and_left_out(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", music(9000, 8000), 8000)
    soundfile.write(tmp_path / "short.wav", music(10, 8000), 8000)
    with pytest.warns(UserWarning, match=r"shorter than one segment.*short\.wav"):
        assert len(ClipFolder(tmp_path, length=8000, sample_rate=16000)) == 2
    with pytest.raises(ValueError, match="longer than all of 2 files"):
        ClipFolder(tmp_path, length=10**6)


def test_folders_without_usable_audio_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found none"):
        ClipFolder(tmp_path, length=100)
    with pytest.raises(ValueError, match="existing folder"):
        ClipFolder(tmp_path / "missing", length=100)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "b.ogg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no usable audio.*a\.wav.*b\.ogg"):
        ClipFolder(tmp_path, length=100)


@pytest.mark.parametrize("length", [0, -5, True])
def test_impossible_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="length must be a positive whole number"):
        ClipFolder(files(2), length=length)


@given(
    st.integers(3, 300), st.integers(0, 1000), st.sampled_from([(0.88, 0.06, 0.06), (0.5, 0.5, 0), (0, 0, 1)])
)
def test_splits_deal_every_file_once(count: int, seed: int, fractions: tuple[float, float, float]) -> None:
    parts = split_files(files(count), fractions, seed)
    dealt = [file for part in parts.values() for file in part]
    assert len(dealt) == count
    assert len(set(dealt)) == count
    assert [bool(part) for part in parts.values()] == [share > 0 for share in fractions]
    assert parts == split_files(files(count), fractions, seed)
    for part, share in zip(parts.values(), fractions, strict=True):
        assert abs(len(part) - share * count) <= 3


def test_another_seed_gives_another_split() -> None:
    assert split_files(files(50), seed=0) != split_files(files(50), seed=1)


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        split_files(files(5), (0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="at least 3"):
        split_files(files(2))


def test_the_loader_of_torch_batches_segments(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", music(16000, 16000), 16000)
    loader = torch.utils.data.DataLoader(ClipFolder(tmp_path, length=2000), batch_size=4)
    assert [tuple(batch.shape) for batch in loader] == [(4, 2000), (4, 2000)]


@given(data=st.binary(max_size=400), suffix=st.sampled_from(["wav", "flac", "mp3", "ogg"]))
def test_any_bytes_are_used_or_named(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / f"any.{suffix}").write_bytes(data)
    try:
        usable, message = len(find_audio(folder)), ""
    except ValueError as error:
        usable, message = 0, str(error)
    assert usable == 1 or f"any.{suffix}" in message
