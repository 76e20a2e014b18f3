"""The part of a file follows from its name alone; adding a file moves no other, and copies stay together."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sashimi_lib.data.split import (
    PARTS,
    SPLIT_FRACTIONS,
    FileLists,
    describe_changes,
    group_duplicates,
    hash_fraction,
    relative_name,
    split_files,
)

ROOT = Path("music")


def files(count: int, prefix: str = "") -> list[Path]:
    return [ROOT / f"{prefix}{index}.wav" for index in range(count)]


def parts_of(paths: list[Path]) -> dict[Path, str]:
    return {path: part for part, paths in split_files(paths, ROOT).items() for path in paths}


@given(st.integers(3, 400), st.integers(0, 1000))
def test_every_file_is_in_one_part_and_no_part_is_empty(count: int, prefix: int) -> None:
    paths = files(count, f"{prefix}_")
    split = split_files(paths, ROOT)
    assert list(split) == list(PARTS)
    assert sorted(path for part in split.values() for path in part) == sorted(paths)
    assert all(split.values())


def test_parts_have_about_their_fractions() -> None:
    split = split_files(files(10_000), ROOT)
    for part, fraction in zip(PARTS, SPLIT_FRACTIONS, strict=True):
        assert len(split[part]) / 10_000 == pytest.approx(fraction, abs=0.01)


@pytest.mark.parametrize("count", [300, 1_000])
def test_an_added_or_removed_recording_moves_no_other(count: int) -> None:
    paths = files(count)
    before = parts_of(paths)
    after = parts_of([*paths, ROOT / "new.wav", ROOT / "deep" / "new.wav"])
    assert {path: after[path] for path in paths} == before
    fewer = parts_of(paths[7:])
    assert {path: before[path] for path in paths[7:]} == fewer


@given(st.integers(3, 30), st.integers(0, 10_000))
def test_in_a_small_folder_an_added_file_moves_none_out_of_training(count: int, new: int) -> None:
    paths = files(count, f"{new}_")
    assume(any(hash_fraction(relative_name(path, ROOT)) < SPLIT_FRACTIONS[0] for path in paths))
    before, after = parts_of(paths), parts_of([*paths, ROOT / f"new_{new}.wav"])
    assert all(after[path] == "train" for path in paths if before[path] == "train")


def test_the_order_of_the_paths_does_not_matter() -> None:
    paths = files(40)
    assert split_files(paths, ROOT) == split_files(paths[::-1], ROOT)


def test_the_split_depends_only_on_paths_relative_to_the_root() -> None:
    moved = [Path("/mnt/disk") / path for path in files(50)]
    split = split_files(moved, Path("/mnt/disk/music"))
    assert [path.name for path in split["train"]] == [
        path.name for path in split_files(files(50), ROOT)["train"]
    ]


def test_names_are_unicode_normalized() -> None:
    composed, decomposed = (ROOT / "é" / unicodedata.normalize(form, "Björk.wav") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert relative_name(composed, ROOT) == relative_name(decomposed, ROOT) == "é/Björk.wav"
    assert relative_name(ROOT / "A.wav", ROOT) != relative_name(ROOT / "a.wav", ROOT)


def test_the_hash_does_not_change_between_releases() -> None:
    assert [round(hash_fraction(name), 6) for name in ("a.wav", "b/a.wav", "é.wav")] == [
        0.735119,
        0.496556,
        0.521789,
    ]


def test_copies_are_in_the_same_part(tmp_path: Path) -> None:
    for number in range(60):
        for folder in ("", "again/", "and/again/"):
            path = tmp_path / f"{folder}{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([number]) * 50)
    split = split_files(list(tmp_path.rglob("*.wav")), tmp_path)
    contents = [{path.read_bytes() for path in split[part]} for part in PARTS]
    assert sum(map(len, contents)) == 60 == len(set.union(*contents))
    assert sum(map(len, split.values())) == 180


def test_only_files_of_identical_content_are_duplicates(tmp_path: Path) -> None:
    for name, data in (("a", b"12"), ("b", b"12"), ("c", b"21"), ("d", b"1")):
        (tmp_path / name).write_bytes(data)
    groups = group_duplicates(sorted(tmp_path.iterdir()))
    assert sorted([path.name for path in group] for group in groups) == [["a", "b"], ["c"], ["d"]]


def test_invalid_splits_are_refused() -> None:
    for fractions in ((0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (1.5, -0.25, -0.25)):
        with pytest.raises(ValueError, match="three positive numbers that sum to 1"):
            split_files(files(5), ROOT, fractions)
    with pytest.raises(
        ValueError, match=r"music must contain at least three different recordings.*got 0\.wav, 1\.wav\. Cut"
    ):
        split_files(files(2), ROOT)


def test_three_copies_are_not_three_recordings(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.wav").write_bytes(b"one")
    with pytest.raises(ValueError, match=r"got a\.wav = b\.wav = c\.wav"):
        split_files(sorted(tmp_path.iterdir()), tmp_path)


def test_file_lists_are_relative_and_describe_changes() -> None:
    lists = FileLists.from_paths(
        {"train": [ROOT / "x" / "a.wav"], "valid": [ROOT / "b.wav"], "test": []}, ROOT
    )
    assert lists == FileLists(("x/a.wav",), ("b.wav",), ())
    assert lists.as_json() == {"train": ["x/a.wav"], "valid": ["b.wav"], "test": []}
    assert describe_changes(lists.as_json(), lists.as_json()) == ""
