"""Folders of user recordings: parts by folder name or hash, unusable recordings, sources of segments."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sashimi_lib.audio.quantizers import CoarseFine
from sashimi_lib.data.clips import probe_files
from sashimi_lib.data.corpora import BEETHOVEN, FOLDER, FSDD, Codes
from sashimi_lib.data.split import PARTS
from tests.audio_files import no_warnings, wav


def test_a_folder_is_split_by_whole_files(tmp_path: Path) -> None:
    for number in range(10):
        subfolder = tmp_path / ("folder" if number < 2 else "other")
        subfolder.mkdir(exist_ok=True)
        (subfolder / f"{number}.wav").write_bytes(wav(800, rate=8_000, channels=2, seed=number))
    with no_warnings():
        parts = {part: FOLDER.codes(tmp_path, part) for part in PARTS}
    assert [len(parts[part]) for part in PARTS] == [8, 1, 1]
    assert len(parts["test"][0]) == 1_600


def write_recordings(folder: Path, *names: str) -> Path:
    """Write different recordings of these names into a folder, and return it."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(wav(seed=number))
    return folder


@pytest.mark.parametrize(
    "folders", [("train", "valid", "test"), ("Train", "VALID", "Test"), ("training", "val", "Testing")]
)
def test_folders_of_the_three_parts_define_the_split(tmp_path: Path, folders: tuple[str, str, str]) -> None:
    for count, folder in enumerate(folders, start=1):
        write_recordings(tmp_path / folder, *(f"{count}_{number}.wav" for number in range(count)))
    with pytest.warns(UserWarning, match=r"in more than one part.*/1_0\.wav = "):
        parts = FOLDER.paths(tmp_path)
    for count, (part, folder) in enumerate(zip(PARTS, folders, strict=True), start=1):
        assert parts[part] == sorted((tmp_path / folder).iterdir())
        assert len(parts[part]) == count


def test_disjoint_parts_cause_no_warning(tmp_path: Path) -> None:
    write_recordings(tmp_path, "train/a.wav", "train/subfolder/b.wav", "dev/c.wav", "test/d.wav")
    with no_warnings():
        assert {part: len(paths) for part, paths in FOLDER.paths(tmp_path).items()} == {
            "train": 2,
            "valid": 1,
            "test": 1,
        }


@pytest.mark.parametrize("missing", PARTS)
def test_two_parts_of_three_are_refused(tmp_path: Path, missing: str) -> None:
    present = [part.capitalize() for part in PARTS if part != missing]
    write_recordings(tmp_path, *(f"{part}/{n}.wav" for part in present for n in range(3)))
    with pytest.raises(ValueError, match=rf"got {present[0]} and {present[1]}, but no {missing}\."):
        FOLDER.paths(tmp_path)
    (tmp_path / present[0]).rename(tmp_path / "other")
    with pytest.raises(ValueError, match=rf"got {present[1]}, but no \w+ and no \w+\."):
        FOLDER.paths(tmp_path)
    (tmp_path / present[1]).rename(tmp_path / "another")
    assert sum(map(len, FOLDER.paths(tmp_path).values())) == 6  # now split by hash


def test_two_folders_of_one_part_are_refused(tmp_path: Path) -> None:
    write_recordings(tmp_path, "train/a.wav", "val/b.wav", "validation/c.wav", "test/d.wav")
    with pytest.raises(ValueError, match="must have one folder for valid, got val and validation"):
        FOLDER.paths(tmp_path)


def test_recordings_outside_the_part_folders_are_named(tmp_path: Path) -> None:
    write_recordings(tmp_path, "train/a.wav", "valid/b.wav", "test/c.wav", "loose.wav", "more/other.wav")
    with pytest.warns(
        UserWarning, match=r"skipped 2 recordings outside the folders.*: loose\.wav, more/other\.wav"
    ):
        paths = FOLDER.paths(tmp_path)
    assert sum(map(len, paths.values())) == 3


def test_an_added_recording_moves_no_other(tmp_path: Path) -> None:
    write_recordings(tmp_path, *(f"{number}.wav" for number in range(200)))
    before = FOLDER.paths(tmp_path)
    (tmp_path / "new.wav").write_bytes(wav(seed=1_000))
    after = FOLDER.paths(tmp_path)
    assert [set(after[part]) - {tmp_path / "new.wav"} for part in PARTS] == [
        set(before[part]) for part in PARTS
    ]


def test_unusable_recordings_are_excluded_before_the_split(tmp_path: Path) -> None:
    for damaged in range(6):
        folder = write_recordings(tmp_path / str(damaged), *(f"{number}.wav" for number in range(6)))
        (folder / f"{damaged}.wav").write_bytes(b"RIFF")
        with pytest.warns(UserWarning, match=rf"skipped 1 of 6 files: .*/{damaged}\.wav") as caught:
            parts = FOLDER.parts(folder)
        assert len(caught) == 1
        assert sum(map(len, parts.values())) == 5
        assert all(parts.values())


def test_silent_and_invalid_recordings_are_skipped_and_clipped_samples_counted(tmp_path: Path) -> None:
    sounds = {
        "a": np.random.default_rng(0).uniform(-0.5, 0.5, 400),
        "clipped": np.full(400, 1.1) * np.sign(np.arange(400) % 2 - 0.5),
        "constant": np.full(400, 0.25),
        "integers": np.arange(400.0),
        "nan": np.full(400, np.nan),
        "silent": np.zeros(400),
    }
    for name, x in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", x, 16_000, subtype="FLOAT")
    files, problems = probe_files(sorted(tmp_path.iterdir()))
    assert problems == []
    with pytest.warns(UserWarning, match="skipped|clipped") as caught:
        codes = FOLDER.codes_of(files)
    skipped, clipped = (str(warning.message) for warning in caught)
    assert skipped.startswith("skipped 4 of 6 recordings: ")
    for name in (
        "constant.wav is silent",
        "integers.wav must lie in",
        "nan.wav must be finite",
        "silent.wav is silent",
    ):
        assert name in skipped
    assert re.fullmatch(r"clipped samples beyond full scale: .*clipped\.wav \(400\)", clipped)
    assert codes.recordings == (tmp_path / "a.wav", tmp_path / "clipped.wav")
    with pytest.raises(ValueError, match=r"none of 1 recordings can be used: .*silent\.wav is silent"):
        FOLDER.codes_of(files[-1:])


def test_silent_recordings_of_a_published_corpus_are_kept(tmp_path: Path) -> None:
    for number in range(20):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(400), 16_000)
    with no_warnings():
        assert len(replace(BEETHOVEN, n_recordings=None).codes(tmp_path, "train")) == 17


def test_every_segment_has_the_path_of_its_recording(tmp_path: Path) -> None:
    for number, length in enumerate((1_000, 100, 500)):
        (tmp_path / f"{number}.wav").write_bytes(wav(length, seed=number))
    files, _ = probe_files(sorted(tmp_path.iterdir()))
    codes = replace(FOLDER, length=400).codes_of(files)
    assert [path.name for path in codes.recordings or ()] == ["0.wav"] * 3 + ["1.wav"] + ["2.wav"] * 2
    assert [len(codes[n]) for n in range(len(codes))] == [400, 400, 200, 100, 400, 100]
    assert Codes([torch.zeros(3, dtype=torch.long)], 256).recordings is None
    with pytest.raises(ValueError, match="recordings must be 1, one per sequence, got 2"):
        Codes([torch.zeros(3, dtype=torch.long)], 256, [Path("a"), Path("b")])


def test_a_segment_has_the_class_of_its_recording(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    for take in range(10):
        (tmp_path / "recordings" / f"{take % 2 + 3}_theo_{take}.wav").write_bytes(
            wav(900, rate=8_000, seed=take)
        )
    fsdd = replace(FSDD, n_recordings=None, length=400)
    for part, takes in (("test", range(5)), ("valid", range(5, 8)), ("train", range(8, 10))):
        pairs = fsdd.labeled(tmp_path, part)
        labels = sorted(take % 2 + 3 for take in takes for _ in range(3))  # in the order of names
        assert [label for _, label in pairs] == labels
        assert [len(segment) for segment, _ in pairs] == [400, 400, 100] * len(takes)


def test_encoding_in_chunks_does_not_change_the_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.wav").write_bytes(wav(1_000))
    files, _ = probe_files([tmp_path / "a.wav"])
    for corpus in (FOLDER, replace(FOLDER, quantizer=CoarseFine()), replace(FOLDER, min_max_normalized=True)):
        codes = corpus.codes_of(files)[0]
        with monkeypatch.context() as patch:
            patch.setattr("sashimi_lib.data.corpora.corpus.ENCODE_CHUNK", 300)
            assert torch.equal(corpus.codes_of(files)[0], codes)


def test_folders_that_cannot_be_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing or empty"):
        FOLDER.codes(tmp_path / "missing", "train")
    (tmp_path / "a.wav").write_bytes(wav())
    with pytest.raises(ValueError, match=r"at least three different recordings.*got a\.wav"):
        FOLDER.codes(tmp_path, "train")
    with pytest.raises(ValueError, match="nothing to fetch"):
        FOLDER.fetch(tmp_path)
