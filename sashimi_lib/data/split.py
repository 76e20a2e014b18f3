"""Split the recordings of a folder into training, validation and test parts.

The part of a file follows from its name alone, as in Speech Commands: a hash of its path is a number in
[0, 1), and each part is a range of that interval. Adding or removing a recording therefore moves no other.
Only if a part would be empty, as in a small folder, it takes the file nearest to its range. Copies of a
recording are in the same part.

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
SPLIT_FRACTIONS = (0.88, 0.06, 0.06)
Split = dict[str, list[Path]]  # the files of each part


def summarize(items: Sequence[str], limit: int = 10) -> str:
    """Join the first ``limit`` items with commas, and add how many more there are.

    >>> summarize(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    more = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def relative_name(path: Path, root: Path) -> str:
    """Return the path of a file below a folder in a portable form: with slashes, Unicode-normalized (NFC).

    >>> relative_name(Path("music/Bach/1.wav"), Path("music"))
    'Bach/1.wav'
    """
    return unicodedata.normalize("NFC", path.relative_to(root).as_posix())


def hash_fraction(name: str) -> float:
    """Map a name to a uniformly distributed number in [0, 1) by its SHA-256 hash.

    >>> round(hash_fraction("Bach/1.wav"), 3)
    0.953
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def split_files(
    paths: Iterable[Path],
    root: Path,
    fractions: tuple[float | int, float | int, float | int] = SPLIT_FRACTIONS,
) -> Split:
    """Split files into "train", "valid" and "test"; no recording is in two parts.

    Files are sorted by the `hash_fraction` of their path below ``root`` (copies by the smallest) and cut at
    the boundaries of the parts, by default 0.88 and 0.94. If a part would be empty, its boundary moves past
    as few files as possible. Only then does adding a file move others; files in "train" stay there, provided
    that the hash of at least one is in its range.

    >>> paths = [Path(f"{index}.wav") for index in range(10)]
    >>> {part: len(files) for part, files in split_files(paths, Path()).items()}
    {'train': 8, 'valid': 1, 'test': 1}

    Chapter: 10. Raises ValueError for fractions that are not positive or do not sum to 1, and for fewer than
    three different recordings.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise ValueError(f"fractions must be three positive numbers that sum to 1, got {fractions}")
    groups = sorted(
        (min(hash_fraction(relative_name(path, root)) for path in group), group)
        for group in group_duplicates(paths)
    )
    if len(groups) < len(PARTS):
        names = summarize([" = ".join(path.name for path in group) for _, group in groups])
        raise ValueError(
            f"{root} must contain at least three different recordings, for train, valid and test, "
            f"got {names or 'none'}. Cut a long recording into several files"
        )
    boundaries = _boundaries([position for position, _ in groups], fractions[0], fractions[0] + fractions[1])
    return {
        part: sorted(path for _, group in groups[begin:end] for path in group)
        for part, (begin, end) in zip(PARTS, pairwise(boundaries), strict=True)
    }


def _boundaries(positions: Sequence[float], valid: float, test: float) -> tuple[int, int, int, int]:
    """Return the indices that cut sorted positions at two thresholds into three non-empty parts."""
    first = sum(position < valid for position in positions)
    second = sum(position < test for position in positions)
    first = min(max(first, 1), len(positions) - 2)
    second = min(max(second, first + 1), len(positions) - 1)
    return 0, first, second, len(positions)


def group_duplicates(paths: Iterable[Path]) -> list[list[Path]]:
    """Group files with identical content; most groups hold one file. Only files of equal size are read.

    >>> group_duplicates([Path("a.wav"), Path("b.wav")])
    [[PosixPath('a.wav')], [PosixPath('b.wav')]]
    """
    by_size: dict[object, list[Path]] = defaultdict(list)
    for path in paths:
        by_size[path.stat().st_size if path.is_file() else path].append(path)
    groups: dict[object, list[Path]] = defaultdict(list)
    for size, candidates in by_size.items():
        for path in candidates:
            groups[size if len(candidates) == 1 else (size, _sha256(path))].append(path)
    return list(groups.values())


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@register
@dataclass(frozen=True)
class FileLists:
    """The recordings of a training run, as paths below its folder: for training, validation and test.

    >>> FileLists(train=("1.wav", "2.wav"), valid=("3.wav",), test=("4.wav",)).as_json()["test"]
    ['4.wav']
    """

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]

    @classmethod
    def from_paths(cls, parts: Mapping[str, Sequence[Path]], root: Path) -> "FileLists":
        """Return the lists of the files of each part, relative to ``root``."""
        return cls(*(tuple(relative_name(path, root) for path in parts[part]) for part in PARTS))

    def as_json(self) -> dict[str, list[str]]:
        """Return the lists as JSON-serializable values."""
        return {part: list(names) for part, names in asdict(self).items()}


def describe_changes(old: Mapping[str, Sequence[str]], new: Mapping[str, Sequence[str]]) -> str:
    """Describe how the files of each part changed; empty if they did not.

    >>> old = {"train": ["a", "b"], "valid": ["c"], "test": ["d"]}
    >>> describe_changes(old, {"train": ["a", "d"], "valid": ["c"], "test": ["e"]})
    'b is gone, d moved from test to train, e is new'
    """
    before, after = ({name: part for part, names in lists.items() for name in names} for lists in (old, new))
    changes = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            changes.append(f"{name} is new")
        elif name not in after:
            changes.append(f"{name} is gone")
        elif before[name] != after[name]:
            changes.append(f"{name} moved from {before[name]} to {after[name]}")
    return summarize(changes)
