"""Datasets from folders: every format and rate, damaged files, links, segments."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib.audio import read, resample
from sashimi_lib.data.clips import AudioFile, ClipFolder, audio_paths, find_audio, probe_files
from tests.audio_files import tune, with_unknown_length, without_info_frame, write_mp3


def music(length: int, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(length + 30, channels)).cumsum(0)
    smooth = np.stack([np.convolve(c, np.hanning(31), "valid")[:length] for c in noise.T], 1)
    smooth -= smooth.mean(0)
    return 0.8 * smooth / np.abs(smooth).max()


def files(count: int) -> list[AudioFile]:
    return [AudioFile(Path(f"{index}.wav"), 16000, 16000) for index in range(count)]


def test_files_of_every_format_give_segments_of_one_shape(tmp_path: Path) -> None:
    formats = [
        ("a.wav", 16000, 1, "PCM_16"),
        ("b.wav", 8000, 1, "PCM_U8"),
        ("c.wav", 44100, 2, "PCM_24"),
        ("d.flac", 11025, 1, "PCM_16"),
        ("e.mp3", 22050, 2, None),
        ("f.ogg", 48000, 2, None),
        ("g.WAV", 12345, 1, "FLOAT"),
    ]
    for name, rate, channels, subtype in formats:
        (tmp_path / "subfolder").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "subfolder" / name, music(2 * rate, rate, channels), rate, subtype=subtype)
    (tmp_path / "notes.txt").write_text("not audio")
    clips = ClipFolder(tmp_path, length=8000, sample_rate=16000)
    assert len(clips.files) == len(formats)
    assert len(clips) == 4 * len(formats)
    batch = torch.stack([clips[index] for index in range(len(clips))])
    assert batch.shape == (28, 8000)
    assert batch.dtype == torch.float32
    assert bool((batch.abs().amax(1) > 0.01).all())


@pytest.mark.parametrize("rate", [8000, 11025, 12345, 22050, 44100, 48000, 16000])
def test_concatenated_segments_equal_the_resampled_file(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.flac", music(3 * rate, rate), rate)
    whole = resample(*read(tmp_path / "a.flac"), 16000)
    clips = ClipFolder(tmp_path, length=5000, sample_rate=16000)
    assert len(clips) == len(whole) // 5000
    joined = torch.cat([clips[index] for index in range(len(clips))])
    assert (joined - whole[: len(joined)]).abs().max() < 1e-6


def test_damaged_files_are_skipped_and_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", music(16000, 16000), 16000)
    soundfile.write(tmp_path / "cut.flac", music(64000, 16000), 16000)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "text.mp3").write_text("hello")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.warns(UserWarning, match="skipped 4 of 5 files") as caught:
        clips = ClipFolder(tmp_path, length=16000)
    for name in ("cut.flac", "zero.wav", "text.mp3", "empty.wav"):
        assert name in str(caught[0].message)
    assert [file.path.name for file in clips.files] == ["good.wav"]


SUFFIX_OF = {
    "AIFF": "aiff", "AU": "au", "AVR": "avr", "CAF": "caf", "FLAC": "flac", "HTK": "htk", "SVX": "8svx",
    "IRCAM": "sf", "MP3": "mp3", "NIST": "sph", "OGG": "oga", "PAF": "paf", "PVF": "pvf", "RF64": "rf64",
    "SDS": "sds", "VOC": "voc", "W64": "w64", "WAV": "wav", "WAVEX": "wave",
}  # fmt: skip
OTHER_FORMATS = {"MAT4", "MAT5", "MPC2K", "RAW", "SD2", "WVE", "XI"}  # not audio files, or read-only


def test_files_of_every_libsndfile_format_are_found(tmp_path: Path) -> None:
    assert set(soundfile.available_formats()) == SUFFIX_OF.keys() | OTHER_FORMATS
    x = music(16_000, 16_000)
    for kind, suffix in SUFFIX_OF.items():
        soundfile.write(tmp_path / f"{kind}.{suffix}", x, 16_000, format=kind)
    soundfile.write(tmp_path / "opus.opus", x, 16_000, format="OGG", subtype="OPUS")
    soundfile.write(tmp_path / "AIF.AIF", x, 16_000, format="AIFF")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {file.path.stem for file in find_audio(tmp_path)} == {*SUFFIX_OF, "opus", "AIF"}


def test_files_of_unsupported_formats_are_counted_and_named_in_one_line(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", music(100, 16_000), 16_000)
    for name in ("a.m4a", "b.M4A", "c.wma", "notes.txt", "Thumbs.db", "desktop.ini", "cover.jpg"):
        (tmp_path / name).write_bytes(b"\0" * 100)
    with pytest.warns(
        UserWarning, match=r"skipped unsupported formats: 2 \.m4a, 1 \.wma \(.*a\.m4a, .*c\.wma\)"
    ) as caught:
        assert [file.path.name for file in find_audio(tmp_path)] == ["good.wav"]
    assert len(caught) == 1


def test_hidden_files_and_system_folders_are_skipped(tmp_path: Path) -> None:
    names = ("a.wav", "b/c.wav", "._a.wav", ".Trash-1000/files/d.wav", "__MACOSX/._a.wav", "__MACOSX/e.wav")
    for name in (*names, ".hidden.wav", "b/.cache/f.wav", "$RECYCLE.BIN/g.wav", ".Trashes/h.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, music(100, 16_000), 16_000, format="WAV")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [file.path.relative_to(tmp_path).as_posix() for file in find_audio(tmp_path)]
    assert found == ["a.wav", "b/c.wav"]
    hidden = tmp_path / ".Trashes"
    assert [path.name for path in audio_paths(hidden)] == ["h.wav"]  # unless it is the root folder


def test_linked_folders_are_followed_once_and_without_loops(tmp_path: Path) -> None:
    music_folder, elsewhere = tmp_path / "music", tmp_path / "elsewhere"
    for name in ("z/own.wav", "m/second.wav"):
        (music_folder / name).parent.mkdir(parents=True)
        (music_folder / name).touch()
    (elsewhere / "subfolder").mkdir(parents=True)
    (elsewhere / "subfolder" / "other.wav").touch()
    (elsewhere / "round").symlink_to(elsewhere)
    (music_folder / "a").symlink_to(music_folder / "z")  # sorted before it, but does not change its path
    (music_folder / "loop").symlink_to(music_folder)
    (music_folder / "linked").symlink_to(elsewhere)
    (music_folder / "linked_again").symlink_to(elsewhere / "subfolder")
    (music_folder / "one.wav").symlink_to(elsewhere / "subfolder" / "other.wav")
    found = [path.relative_to(music_folder).as_posix() for path in audio_paths(music_folder)]
    assert found == ["linked/subfolder/other.wav", "m/second.wav", "one.wav", "z/own.wav"]


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", music(100, 16_000), 16_000)
    (tmp_path / "b.wav").symlink_to(tmp_path / "gone.wav")
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 files: .*b\.wav"):
        assert len(find_audio(tmp_path)) == 1


def test_lengths_are_correct_whatever_headers_say(tmp_path: Path) -> None:
    x = tune(4)
    good, bad = write_mp3(tmp_path / "good.mp3", x), write_mp3(tmp_path / "joined.mp3", x)
    bad.write_bytes(2 * bad.read_bytes())
    bare = without_info_frame(write_mp3(tmp_path / "bare.mp3", x))
    soundfile.write(tmp_path / "piped.flac", x, 44_100)
    piped = with_unknown_length(tmp_path / "piped.flac")
    found, problems = probe_files([good, bad, bare, piped])
    lengths = [file.frames / len(x) for file in found]
    assert lengths == [1, 2, pytest.approx(1, abs=0.03), 1]
    assert problems == [f"{bad} contains 352,800 samples, but its header says 176,400"]
    clips = ClipFolder([found[2]], length=50_000, sample_rate=44_100)
    joined = torch.cat([clips[index] for index in range(len(clips))])
    assert torch.equal(joined, read(bare)[0][: len(joined)])


def test_a_file_shorter_than_its_header_says_is_named_on_access(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", music(16000, 16000), 16000)
    promised = AudioFile(tmp_path / "a.wav", 16000, 24000)
    clips = ClipFolder([promised], length=10000)
    assert clips[0].shape == (10000,)
    with pytest.raises(ValueError, match=r"a\.wav must contain 24000 samples"):
        clips[1]


def test_files_shorter_than_a_segment_are_skipped_and_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", music(9000, 8000), 8000)
    soundfile.write(tmp_path / "short.wav", music(10, 8000), 8000)
    with pytest.warns(UserWarning, match=r"skipped 1 files shorter than one segment: .*short\.wav"):
        assert len(ClipFolder(tmp_path, length=8000, sample_rate=16000)) == 2
    with pytest.raises(ValueError, match="longer than all of 2 files"):
        ClipFolder(tmp_path, length=10**6)


def test_folders_without_usable_audio_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got none in"):
        ClipFolder(tmp_path, length=100)
    with pytest.raises(ValueError, match="existing folder"):
        ClipFolder(tmp_path / "missing", length=100)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "b.ogg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"folder must contain usable audio.*a\.wav.*b\.ogg"):
        ClipFolder(tmp_path, length=100)


@pytest.mark.parametrize("length", [0, -5, True])
def test_invalid_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="length must be a positive integer"):
        ClipFolder(files(2), length=length)


def test_a_pytorch_data_loader_batches_segments(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", music(16000, 16000), 16000)
    loader = torch.utils.data.DataLoader(ClipFolder(tmp_path, length=2000), batch_size=4)
    assert [tuple(batch.shape) for batch in loader] == [(4, 2000), (4, 2000)]


@given(data=st.binary(max_size=400), suffix=st.sampled_from(["wav", "flac", "mp3", "ogg"]))
def test_any_file_content_is_used_or_named(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / f"any.{suffix}").write_bytes(data)
    try:
        usable, message = len(find_audio(folder)), ""
    except ValueError as error:
        usable, message = 0, str(error)
    assert usable == 1 or f"any.{suffix}" in message
