"""Splits of published corpora into training, validation and test parts, by their folder layout.

Each function takes the root folder of a corpus and returns the paths of "train", "valid" and "test". Splits
of published corpora depend on file names only; of user recordings, unusable ones are excluded first.

Chapter: 10.
"""

import re
import warnings
from pathlib import Path

from sashimi_lib.data.clips import audio_paths, find_audio
from sashimi_lib.data.split import PARTS, Split, group_duplicates, relative_name, split_files, summarize

PART_FOLDERS = {  # accepted folder names of each part, case-insensitive
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing"),
}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def natural_key(path: Path) -> list[str | int]:
    """Return a sort key that orders numbers in names by value: 2.wav before 10.wav.

    >>> sorted([Path("10.wav"), Path("2.wav")], key=natural_key)[0].name
    '2.wav'
    """
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _wavs(folder: Path, pattern: str = "*.wav") -> list[Path]:
    """List WAV files in natural order, without macOS metadata (``._0.wav``), which would shift a split."""
    return sorted((path for path in folder.glob(pattern) if path.name[0] != "."), key=natural_key)


def list_file_split(root: Path) -> Split:
    """Split SC09: a folder for each of ten words, and two text files that list validation and test files.

    Raises FileNotFoundError if a list or the folder of a word is missing. Warns of listed files that are
    missing.

    Chapter: 10.
    """
    part_of: dict[str, str] = {}
    for part, file in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        if not (root / file).is_file():
            raise FileNotFoundError(f"{root / file} is missing: it lists the files of the {part} part")
        part_of |= dict.fromkeys((root / file).read_text().split(), part)
    part_of = {name: part for name, part in part_of.items() if name.split("/")[0] in DIGITS}  # of 35 words
    split: Split = {part: [] for part in PARTS}
    for word in DIGITS:
        if not (root / word).is_dir():
            raise FileNotFoundError(f"{root / word} is missing: expected folders {', '.join(DIGITS)}")
        for path in _wavs(root / word):
            split[part_of.pop(f"{word}/{path.name}", "train")].append(path)
    if part_of:
        warnings.warn(f"{root}: listed files are missing: {summarize(sorted(part_of))}", stacklevel=2)
    return split


def contiguous_split(root: Path) -> Split:
    """Split Beethoven and YouTubeMix: numbered files, the first 88 % for training, the last 6 % for testing.

    Chapter: 10.
    """
    paths = _wavs(root)
    first, second = int(0.88 * len(paths)), int(0.94 * len(paths))
    return {"train": paths[:first], "valid": paths[first:second], "test": paths[second:]}


def fsdd_split(root: Path) -> Split:
    """Split FSDD, ``recordings/DIGIT_SPEAKER_TAKE.wav``: takes 0 to 4 are the official test part.

    There is no official validation part; here it is takes 5 to 7. Warns of files with other names.

    Chapter: 10.
    """
    split: Split = {part: [] for part in PARTS}
    skipped = []
    for path in _wavs(root / "recordings"):
        if name := re.fullmatch(r"\d_\w+_(\d+)", path.stem):
            take = int(name[1])
            split["test" if take < 5 else "valid" if take < 8 else "train"].append(path)
        else:
            skipped.append(path.name)
    if skipped:
        names = summarize(skipped)
        warnings.warn(f"{root}: skipped files not named DIGIT_SPEAKER_TAKE.wav: {names}", stacklevel=2)
    return split


def digit_of_folder(path: Path) -> int:
    """Return the digit spoken in a recording of SC09.

    >>> digit_of_folder(Path("sc09/seven/0a7c2a8d_nohash_0.wav"))
    7
    """
    return DIGITS.index(path.parent.name)


def digit_of_name(path: Path) -> int:
    """Return the digit spoken in a recording of FSDD.

    >>> digit_of_name(Path("recordings/7_jackson_32.wav"))
    7
    """
    return int(path.name[0])


def chapter_split(root: Path) -> Split:
    """Split LJSpeech, ``wavs/LJ001-0001.wav``: chapters 1 and 2 for testing, as is common for vocoders.

    Chapter 3 is the validation part. The SaShiMi authors trained their vocoder on all chapters.

    Chapter: 10.
    """
    part_of = {"LJ001": "test", "LJ002": "test", "LJ003": "valid"}
    split: Split = {part: [] for part in PARTS}
    for path in _wavs(root / "wavs", "LJ*.wav"):
        split[part_of.get(path.name[:5], "train")].append(path)
    return split


def user_split(root: Path) -> Split:
    """Split user recordings by their folders ``train``, ``valid`` and ``test``, or by a hash of their paths.

    Without such folders, `sashimi_lib.data.split.split_files` assigns whole files, about 88, 6 and 6 %. Other
    names of the folders are accepted too (``Train``, ``validation``, ``val``, ``dev``, ...). Warns of
    recordings outside them and of copies in two of them. Raises ValueError if only some of the three folders
    exist, for two folders of one part, and for fewer than three usable recordings.

    Chapter: 10.
    """
    folders = find_part_folders(root)
    if not folders:
        return split_files([file.path for file in find_audio(root)], root)
    split = {part: audio_paths(folder) for part, folder in folders.items()}
    within = {path for paths in split.values() for path in paths}
    unused = [relative_name(path, root) for path in audio_paths(root) if path not in within]
    if unused:
        names = ", ".join(folder.name for folder in folders.values())
        warnings.warn(
            f"{root}: skipped {len(unused):,} recordings outside the folders {names}: {summarize(unused)}",
            stacklevel=2,
        )
    part_of = {path: part for part, paths in split.items() for path in paths}
    leaked = [
        " = ".join(relative_name(path, root) for path in group)
        for group in group_duplicates(sorted(within))
        if len({part_of[path] for path in group}) > 1
    ]
    if leaked:
        warnings.warn(
            f"{root}: identical recordings in more than one part: {summarize(leaked)}", stacklevel=2
        )
    return split


def find_part_folders(root: Path) -> dict[str, Path]:
    """Return the folders of the three parts in ``root``, or an empty dict. Raises as `user_split` does.

    >>> find_part_folders(Path("."))
    {}
    """
    subfolders = sorted(path for path in root.iterdir() if path.is_dir())
    found = {
        part: [path for path in subfolders if path.name.casefold() in PART_FOLDERS[part]] for part in PARTS
    }
    for part, folders in found.items():
        if len(folders) > 1:
            names = " and ".join(folder.name for folder in folders)
            raise ValueError(f"{root} must have one folder for {part}, got {names}")
    present = [folders[0] for folders in found.values() if folders]
    missing = [part for part in PARTS if not found[part]]
    if present and missing:
        raise ValueError(
            f"{root} must have three folders train, valid and test, or none of them, got "
            f"{' and '.join(folder.name for folder in present)}, but no {' and no '.join(missing)}. Add what "
            "is missing; or rename the others, and all files are split by a hash of their paths"
        )
    return {part: found[part][0] for part in PARTS} if present else {}
