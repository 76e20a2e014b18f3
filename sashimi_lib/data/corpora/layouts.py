"""Which recording of a published corpus learns, which is held out, and which is the test: by its layout.

Each function takes the folder that a corpus was unpacked into, and returns paths under "train", "valid" and
"test". Only names are looked at here: what a file holds makes no difference to where it, or the next, goes.

Chapter: 10.
"""

import re
import warnings
from pathlib import Path

from sashimi_lib.data.clips import SUFFIXES, audio_paths, split_files

Split = dict[str, list[Path]]
PARTS = ("train", "valid", "test")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def named(paths: list[str], most: int = 10) -> str:
    """The first few of a list in words, and how many more.

    >>> named(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more


def natural(path: Path) -> list[str | int]:
    """To sort by as a person would: 2.wav before 10.wav.

    >>> sorted([Path("10.wav"), Path("2.wav")], key=natural)[0].name
    '2.wav'
    """
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _wavs(folder: Path, pattern: str = "*.wav") -> list[Path]:
    """By name; without what a Mac puts beside each file (``._0.wav``), which would shift a split."""
    return sorted((path for path in folder.glob(pattern) if path.name[0] != "."), key=natural)


def listed(root: Path) -> Split:
    """SC09: a folder for each of ten words, and two lists of the files that are not for training.

    Raises FileNotFoundError for a missing list, for without it nobody knows the split, and for a missing
    word. Warns of files that are listed but not there.

    Chapter: 10.
    """
    held: dict[str, str] = {}
    for part, file in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        if not (root / file).is_file():
            raise FileNotFoundError(f"{root / file} is missing: it says which files are not for training")
        held |= dict.fromkeys((root / file).read_text().split(), part)
    held = {name: part for name, part in held.items() if name.split("/")[0] in DIGITS}  # of 35 words
    split: Split = {part: [] for part in PARTS}
    for word in DIGITS:
        if not (root / word).is_dir():
            raise FileNotFoundError(f"{root / word} is missing: a folder for each of {', '.join(DIGITS)}")
        for path in _wavs(root / word):
            split[held.pop(f"{word}/{path.name}", "train")].append(path)
    if held:
        warnings.warn(f"{root}: listed, but not there: {named(sorted(held))}", stacklevel=2)
    return split


def in_order(root: Path) -> Split:
    """Beethoven and YouTubeMix: numbered files, of which the first 88 % learn and the last 6 % are the test.

    Chapter: 10.
    """
    paths = _wavs(root)
    first, second = int(0.88 * len(paths)), int(0.94 * len(paths))
    return {"train": paths[:first], "valid": paths[first:second], "test": paths[second:]}


def by_take(root: Path) -> Split:
    """FSDD: ``recordings/DIGIT_SPEAKER_TAKE.wav``; takes 0 to 4 are the test, as its authors say.

    They have no held-out part; here it is takes 5 to 7. Warns of files with other names.

    Chapter: 10.
    """
    split: Split = {part: [] for part in PARTS}
    other = []
    for path in _wavs(root / "recordings"):
        if name := re.fullmatch(r"\d_\w+_(\d+)", path.stem):
            take = int(name[1])
            split["test" if take < 5 else "valid" if take < 8 else "train"].append(path)
        else:
            other.append(path.name)
    if other:
        warnings.warn(f"{root}: left out, not DIGIT_SPEAKER_TAKE.wav: {named(other)}", stacklevel=2)
    return split


def digit_of_folder(path: Path) -> int:
    """SC09: the digit that a recording says.

    >>> digit_of_folder(Path("sc09/seven/0a7c2a8d_nohash_0.wav"))
    7
    """
    return DIGITS.index(path.parent.name)


def digit_of_name(path: Path) -> int:
    """FSDD: the digit that a recording says.

    >>> digit_of_name(Path("recordings/7_jackson_32.wav"))
    7
    """
    return int(path.name[0])


def by_chapter(root: Path) -> Split:
    """LJSpeech: ``wavs/LJ001-0001.wav``; chapters 1 and 2 are the test, as vocoders are often judged.

    Chapter 3 is held out. The SaShiMi authors' vocoder learned from all of them.

    Chapter: 10.
    """
    part_of = {"LJ001": "test", "LJ002": "test", "LJ003": "valid"}
    split: Split = {part: [] for part in PARTS}
    for path in _wavs(root / "wavs", "LJ*.wav"):
        split[part_of.get(path.name[:5], "train")].append(path)
    return split


def of_ones_own(root: Path) -> Split:
    """Any recordings: folders ``train``, ``valid`` and ``test`` if there are such, else whole files, dealt.

    The deal is `sashimi_lib.data.clips.split_files`: 88, 6 and 6 % in an order known from a seed. Raises
    ValueError for fewer than three files.

    Chapter: 10.
    """
    given = all((root / part).is_dir() for part in PARTS)
    if given:
        return {part: audio_paths(root / part) for part in PARTS}
    paths = audio_paths(root)
    if len(paths) < len(PARTS):
        raise ValueError(
            f"{root} must hold at least three recordings ({', '.join(SUFFIXES)}), for some are held out and "
            f"some are the test; got {len(paths)}. Cut a long one into pieces"
        )
    return split_files(paths)
