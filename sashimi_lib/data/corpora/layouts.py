"""Which recording of a published corpus learns, which is held out, and which is the test: by its layout.

Each function takes the folder that a corpus was unpacked into, and returns paths under "train", "valid" and
"test". Only names are looked at here: what a file holds makes no difference to where it, or the next, goes.
(Of one's own recordings those that cannot be used are left out first.)

Chapter: 10.
"""

import re
import warnings
from pathlib import Path

from sashimi_lib.data.clips import audio_paths, find_audio
from sashimi_lib.data.split import PARTS, Split, relative_name, same, split_files, summary

NAMES = {  # of folders that are the parts, whether in capitals or not
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing"),
}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def natural(path: Path) -> list[str | int]:
    """To sort by as a person would: 2.wav before 10.wav.

    >>> sorted([Path("10.wav"), Path("2.wav")], key=natural)[0].name
    '2.wav'
    """
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _wavs(folder: Path, pattern: str = "*.wav") -> list[Path]:
    """By name; without what a Mac puts beside each file (``._0.wav``), which would shift a split."""
    return sorted((path for path in folder.glob(pattern) if path.name[0] != "."), key=natural)


def list_file_split(root: Path) -> Split:
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
        warnings.warn(f"{root}: listed, but not there: {summary(sorted(held))}", stacklevel=2)
    return split


def contiguous_split(root: Path) -> Split:
    """Beethoven and YouTubeMix: numbered files, of which the first 88 % learn and the last 6 % are the test.

    Chapter: 10.
    """
    paths = _wavs(root)
    first, second = int(0.88 * len(paths)), int(0.94 * len(paths))
    return {"train": paths[:first], "valid": paths[first:second], "test": paths[second:]}


def fsdd_split(root: Path) -> Split:
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
        warnings.warn(f"{root}: left out, not DIGIT_SPEAKER_TAKE.wav: {summary(other)}", stacklevel=2)
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


def chapter_split(root: Path) -> Split:
    """LJSpeech: ``wavs/LJ001-0001.wav``; chapters 1 and 2 are the test, as vocoders are often judged.

    Chapter 3 is held out. The SaShiMi authors' vocoder learned from all of them.

    Chapter: 10.
    """
    part_of = {"LJ001": "test", "LJ002": "test", "LJ003": "valid"}
    split: Split = {part: [] for part in PARTS}
    for path in _wavs(root / "wavs", "LJ*.wav"):
        split[part_of.get(path.name[:5], "train")].append(path)
    return split


def user_split(root: Path) -> Split:
    """Any recordings: folders ``train``, ``valid`` and ``test`` as they are, if there are such; else whole
    files by `sashimi_lib.data.split.split_files`, about 88, 6 and 6 %, each by a hash of its path.

    The folders may be called ``Train``, ``validation``, ``val``, ``dev`` and the like, too. Warns of
    recordings beside them, and of such as are in two of them. Raises ValueError where some of the three are
    there but not all, for two of the same kind, and for fewer than three recordings that can be used.

    Chapter: 10.
    """
    folders = parts_given(root)
    if not folders:
        return split_files([file.path for file in find_audio(root)], root)
    split = {part: audio_paths(folder) for part, folder in folders.items()}
    within = {path for paths in split.values() for path in paths}
    loose = [relative_name(path, root) for path in audio_paths(root) if path not in within]
    if loose:
        names = ", ".join(folder.name for folder in folders.values())
        warnings.warn(
            f"{root}: {len(loose):,} recordings beside the folders {names} are not used: {summary(loose)}",
            stacklevel=2,
        )
    part_of = {path: part for part, paths in split.items() for path in paths}
    twice = [
        " is ".join(relative_name(path, root) for path in group)
        for group in same(sorted(within))
        if len({part_of[path] for path in group}) > 1
    ]
    if twice:
        warnings.warn(
            f"{root}: the same recordings are in more than one part: {summary(twice)}", stacklevel=2
        )
    return split


def parts_given(root: Path) -> dict[str, Path]:
    """The folders in a folder that are the parts, or none. Raises ValueError, as `user_split` says.

    >>> parts_given(Path("."))
    {}
    """
    below = sorted(path for path in root.iterdir() if path.is_dir())
    found = {part: [path for path in below if path.name.casefold() in NAMES[part]] for part in PARTS}
    for part, folders in found.items():
        if len(folders) > 1:
            names = " and ".join(folder.name for folder in folders)
            raise ValueError(f"{root} must have one folder for {part}, got {names}")
    there = [folders[0] for folders in found.values() if folders]
    missing = [part for part in PARTS if not found[part]]
    if there and missing:
        raise ValueError(
            f"{root} must have three folders train, valid and test, or none of them: it has "
            f"{' and '.join(folder.name for folder in there)}, but no {' and no '.join(missing)}. Make what "
            "is missing; or give the others another name, and all files are split by a hash of their paths"
        )
    return {part: found[part][0] for part in PARTS} if there else {}
