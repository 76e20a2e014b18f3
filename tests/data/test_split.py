"""A file's part follows from its name alone: what is added moves nothing else, and copies go together."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib.data.split import (
    PARTS,
    SHARES,
    FileLists,
    difference,
    position,
    relative_name,
    same,
    split_files,
)

ROOT = Path("music")


def files(count: int, prefix: str = "") -> list[Path]:
    return [ROOT / f"{prefix}{number}.wav" for number in range(count)]


def parts_of(paths: list[Path]) -> dict[Path, str]:
    return {path: part for part, those in split_files(paths, ROOT).items() for path in those}


@given(st.integers(3, 400), st.integers(0, 1000))
def test_every_file_is_in_one_part_and_no_part_is_empty(count: int, prefix: int) -> None:
    paths = files(count, f"{prefix}_")
    split = split_files(paths, ROOT)
    assert list(split) == list(PARTS)
    assert sorted(path for part in split.values() for path in part) == sorted(paths)
    assert all(split.values())


def test_parts_have_about_their_shares() -> None:
    split = split_files(files(10_000), ROOT)
    for part, share in zip(PARTS, SHARES, strict=True):
        assert len(split[part]) / 10_000 == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("count", [300, 1_000])
def test_a_recording_that_is_added_or_taken_away_moves_no_other(count: int) -> None:
    paths = files(count)
    before = parts_of(paths)
    after = parts_of([*paths, ROOT / "new.wav", ROOT / "deep" / "new.wav"])
    assert {path: after[path] for path in paths} == before
    fewer = parts_of(paths[7:])
    assert {path: before[path] for path in paths[7:]} == fewer


@given(st.integers(3, 30), st.integers(0, 10_000))
def test_in_a_small_folder_files_move_towards_training_alone(count: int, new: int) -> None:
    paths = files(count, f"{new}_")
    before, after = parts_of(paths), parts_of([*paths, ROOT / f"new_{new}.wav"])
    assert all(PARTS.index(after[path]) <= PARTS.index(before[path]) for path in paths)


def test_the_order_in_which_files_are_found_makes_no_difference() -> None:
    paths = files(40)
    assert split_files(paths, ROOT) == split_files(paths[::-1], ROOT)


def test_the_part_follows_from_the_path_below_the_folder_alone() -> None:
    elsewhere = [Path("/mnt/disk") / path for path in files(50)]
    split = split_files(elsewhere, Path("/mnt/disk/music"))
    assert [path.name for path in split["train"]] == [
        path.name for path in split_files(files(50), ROOT)["train"]
    ]


def test_names_are_the_same_on_every_system() -> None:
    composed, apart = (ROOT / "é" / unicodedata.normalize(form, "Björk.wav") for form in ("NFC", "NFD"))
    assert composed != apart
    assert relative_name(composed, ROOT) == relative_name(apart, ROOT) == "é/Björk.wav"
    assert relative_name(ROOT / "A.wav", ROOT) != relative_name(ROOT / "a.wav", ROOT)


def test_the_hash_is_as_it_was_when_the_first_lists_were_made() -> None:
    assert [round(position(name), 6) for name in ("a.wav", "b/a.wav", "é.wav")] == [
        0.735119,
        0.496556,
        0.521789,
    ]


def test_copies_are_in_one_part(tmp_path: Path) -> None:
    for number in range(60):
        for folder in ("", "again/", "and/again/"):
            path = tmp_path / f"{folder}{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([number]) * 50)
    split = split_files(list(tmp_path.rglob("*.wav")), tmp_path)
    contents = [{path.read_bytes() for path in split[part]} for part in PARTS]
    assert sum(map(len, contents)) == 60 == len(set.union(*contents))
    assert sum(map(len, split.values())) == 180


def test_only_equal_bytes_are_the_same(tmp_path: Path) -> None:
    for name, data in (("a", b"12"), ("b", b"12"), ("c", b"21"), ("d", b"1")):
        (tmp_path / name).write_bytes(data)
    groups = same(sorted(tmp_path.iterdir()))
    assert sorted([path.name for path in group] for group in groups) == [["a", "b"], ["c"], ["d"]]


def test_impossible_splits_are_refused() -> None:
    for shares in ((0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (1.5, -0.25, -0.25)):
        with pytest.raises(ValueError, match="three positive numbers that add up to 1"):
            split_files(files(5), ROOT, shares)
    with pytest.raises(
        ValueError, match=r"music must hold at least three recordings.*got 0\.wav, 1\.wav\. Cut"
    ):
        split_files(files(2), ROOT)


def test_copies_are_no_three_recordings(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.wav").write_bytes(b"one")
    with pytest.raises(ValueError, match=r"got a\.wav = b\.wav = c\.wav"):
        split_files(sorted(tmp_path.iterdir()), tmp_path)


def test_lists_and_their_differences() -> None:
    lists = FileLists.of({"train": [ROOT / "x" / "a.wav"], "valid": [ROOT / "b.wav"], "test": []}, ROOT)
    assert lists == FileLists(("x/a.wav",), ("b.wav",), ())
    assert lists.as_json() == {"train": ["x/a.wav"], "valid": ["b.wav"], "test": []}
    assert difference(lists.as_json(), lists.as_json()) == ""
