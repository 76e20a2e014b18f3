"""Which recordings of a folder are for training, for validation, and for the test.

A file's part follows from its name alone, as in Speech Commands: a hash of its path is a number from 0 to 1,
and three ranges of it are the three parts. So a recording that is added, or taken away, moves no other. Only
where a part would have no file at all, as in a small folder, it takes the nearest one. Copies of a recording
go together.

Chapter: 10.
"""

import hashlib
import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from sashimi_lib.registry import register

PARTS = ("train", "valid", "test")
SHARES = (0.88, 0.06, 0.06)
Split = dict[str, list[Path]]


def summary(names: Sequence[str], most: int = 10) -> str:
    """The first few of a list in words, and how many more.

    >>> summary(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def relative_name(path: Path, root: Path) -> str:
    """A file's path below a folder, the same on every system: with slashes, and accents composed (NFC).

    >>> relative_name(Path("music/Bach/1.wav"), Path("music"))
    'Bach/1.wav'
    """
    return unicodedata.normalize("NFC", path.relative_to(root).as_posix())


def position(name: str) -> float:
    """Where the hash of a name falls between 0 and 1.

    >>> round(position("Bach/1.wav"), 3)
    0.953
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def split_files(
    paths: Iterable[Path], root: Path, shares: tuple[float | int, float | int, float | int] = SHARES
) -> Split:
    """Whole files for "train", "valid" and "test": pieces of one recording never face each other.

    Files are ordered by `position`, copies of one by that of the first, and cut where the ranges of the parts
    end: at 0.88 and 0.94 with the usual shares. Where a part would be empty, a cut moves past as few files as
    it takes. So adding a file moves another one at most where a part had borrowed it, and then back towards
    "train": what was learnt from never becomes a test.

    >>> paths = [Path(f"{number}.wav") for number in range(10)]
    >>> {part: len(files) for part, files in split_files(paths, Path()).items()}
    {'train': 8, 'valid': 1, 'test': 1}

    Chapter: 10. Raises ValueError for shares that are not positive or do not add up to 1, and for fewer than
    three different recordings.
    """
    if len(shares) != 3 or min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"shares must be three positive numbers that add up to 1, got {shares}")
    groups = sorted(
        (min(position(relative_name(path, root)) for path in group), group) for group in same(paths)
    )
    if len(groups) < len(PARTS):
        names = summary([" = ".join(path.name for path in group) for _, group in groups])
        raise ValueError(
            f"{root} must hold at least three recordings, for some are held out and some are the test; got "
            f"{names or 'none'}. Cut a long one into pieces"
        )
    first = sum(place < shares[0] for place, _ in groups)
    second = sum(place < shares[0] + shares[1] for place, _ in groups)
    first = min(max(first, 1), len(groups) - 2)
    second = min(max(second, first + 1), len(groups) - 1)
    cuts = pairwise((0, first, second, len(groups)))
    return {
        part: sorted(path for _, group in groups[begin:end] for path in group)
        for part, (begin, end) in zip(PARTS, cuts, strict=True)
    }


def same(paths: Iterable[Path]) -> list[list[Path]]:
    """Files with the same bytes together; most are alone. Only files of one size are read.

    >>> same([Path("a.wav"), Path("b.wav")])
    [[PosixPath('a.wav')], [PosixPath('b.wav')]]
    """
    by_size: dict[object, list[Path]] = defaultdict(list)
    for path in paths:
        by_size[path.stat().st_size if path.is_file() else path].append(path)
    groups: dict[object, list[Path]] = defaultdict(list)
    for size, alike in by_size.items():
        for path in alike:
            groups[size if len(alike) == 1 else (size, _digest(path))].append(path)
    return list(groups.values())


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@register
@dataclass(frozen=True)
class FileLists:
    """The recordings of a run by their paths below its folder: what a model learnt from, and what it did not.

    >>> FileLists(train=("1.wav", "2.wav"), valid=("3.wav",), test=("4.wav",)).as_json()["test"]
    ['4.wav']
    """

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]

    @classmethod
    def of(cls, parts: Mapping[str, Sequence[Path]], root: Path) -> "FileLists":
        """Those of files below a folder."""
        return cls(*(tuple(relative_name(path, root) for path in parts[part]) for part in PARTS))

    def as_json(self) -> dict[str, list[str]]:
        """As values that JSON has."""
        return {part: list(names) for part, names in asdict(self).items()}


def difference(there: Mapping[str, Sequence[str]], here: Mapping[str, Sequence[str]]) -> str:
    """How two lists of the files of each part differ, in words.

    >>> there = {"train": ["a", "b"], "valid": ["c"], "test": ["d"]}
    >>> difference(there, {"train": ["a", "d"], "valid": ["c"], "test": ["e"]})
    'b is gone, d moved from test to train, e is new'
    """
    before, after = ({name: part for part, names in x.items() for name in names} for x in (there, here))
    changes = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            changes.append(f"{name} is new")
        elif name not in after:
            changes.append(f"{name} is gone")
        elif before[name] != after[name]:
            changes.append(f"{name} moved from {before[name]} to {after[name]}")
    return summary(changes)
