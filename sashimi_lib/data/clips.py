"""Folders of one's own recordings (WAV, FLAC, MP3, OGG) as equal segments that a model can learn from.

A folder of hours stays on disk: only the length of each file is read at the start, and each segment when it
is asked for. Files that cannot be used are named in a warning and left out; a folder with nothing usable
raises.

Chapter: 1; used wherever a model is trained on a corpus.
"""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import soundfile
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from sashimi_lib.audio import check_sample_rate, read, resample

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
File = TypeVar("File")


@dataclass(frozen=True)
class AudioFile:
    """What is known of a file before it is read: where it is, its own rate, its length at that rate."""

    path: Path
    sample_rate: int
    frames: int


def find_audio(folder: str | Path) -> list[AudioFile]:
    """Every usable audio file under ``folder``, by path; the others are named in one warning.

    Only headers are read. Raises ValueError if ``folder`` is no folder, holds no audio, or none that is
    usable.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> len(find_audio(AUDIO))
    13

    Chapter: 1.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"folder must be an existing folder, got {folder}")
    paths = audio_paths(folder)
    if not paths:
        raise ValueError(f"folder must hold {', '.join(SUFFIXES)} files, found none in {folder}")
    found, bad = look_at(paths)
    if not found:
        raise ValueError(f"folder {folder} holds no usable audio: {'; '.join(bad)}")
    if bad:
        warnings.warn(f"left out {len(bad)} of {len(paths)} files: {'; '.join(bad)}", stacklevel=2)
    return found


def audio_paths(folder: Path) -> list[Path]:
    """All files below a folder that audio is called like, by path.

    >>> audio_paths(Path("nowhere"))
    []

    Chapter: 1.
    """
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def look_at(paths: list[Path]) -> tuple[list[AudioFile], list[str]]:
    """The usable ones of these files, in their order; and of each other one, what is wrong with it.

    Only headers, and the last sample of each, are read.

    >>> look_at([Path("missing.wav")])[0]
    []

    Chapter: 1.
    """
    found, bad = [], []
    for path in paths:
        try:
            found.append(_look(path))
        except (ValueError, FileNotFoundError) as error:
            bad.append(str(error))
    return found, bad


def _look(path: Path) -> AudioFile:
    """Header and last sample of one file; the latter fails for a file that was cut off."""
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as audio ({error})") from error
    if info.frames < 1:
        raise ValueError(f"{path} holds no samples")
    read(path, start=info.frames - 1, frames=1)
    return AudioFile(path, info.samplerate, info.frames)


def split_files(
    files: list[File],
    fractions: tuple[float | int, float | int, float | int] = (0.88, 0.06, 0.06),
    seed: int = 0,
) -> dict[str, list[File]]:
    """Deal whole files into "train", "valid" and "test": pieces of one recording never face each other.

    A seeded shuffle; ``fractions`` are shares of the number of files, and any above zero gets at least one
    file. Raises ValueError for fractions that are negative or do not add up to 1, and for fewer files than
    shares.

    >>> files = [AudioFile(Path(f"{n}.wav"), 16000, 16000) for n in range(10)]
    >>> {name: len(part) for name, part in split_files(files).items()}
    {'train': 8, 'valid': 1, 'test': 1}

    Chapter: 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise ValueError(f"fractions must be three shares that add up to 1, got {fractions}")
    wanted = sum(share > 0 for share in fractions)
    if len(files) < wanted:
        raise ValueError(f"files must be at least {wanted}, one for each part, got {len(files)}")
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
    counts = [max(1, int(share * len(files))) if share > 0 else 0 for share in fractions]
    largest = max(range(3), key=lambda part: fractions[part])
    counts[largest] += len(files) - sum(counts)  # the largest part takes, or gives, what rounding left
    ends = [sum(counts[: part + 1]) for part in range(3)]
    dealt = [sorted(order[end - count : end]) for end, count in zip(ends, counts, strict=True)]
    return {
        name: [files[number] for number in part]
        for name, part in zip(("train", "valid", "test"), dealt, strict=True)
    }


class ClipFolder(Dataset[Tensor]):
    """Non-overlapping segments of ``length`` samples at ``sample_rate``, mono, from files or a folder.

    ``source`` is a folder, or a list of files as `find_audio` and `split_files` give it. Other rates are
    resampled, several channels mixed down. What is left at a file's end (less than ``length``) is dropped; a
    file shorter than one segment is named in a warning and gives none. A file that turns out damaged in the
    middle raises when read. Raises ValueError for a folder without usable audio, for a bad length or rate,
    and when no file is long enough.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> clips = ClipFolder([f for f in find_audio(AUDIO) if f.path.name == "piano.flac"], length=128_000)
    >>> len(clips), clips[0].shape
    (10, torch.Size([128000]))

    Chapter: 1.
    """

    def __init__(self, source: str | Path | list[AudioFile], length: int, sample_rate: int = 16_000) -> None:
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ValueError(f"length must be a positive whole number of samples, got {length!r}")
        check_sample_rate(sample_rate)
        self.length = length
        self.sample_rate = sample_rate
        self.files = source if isinstance(source, list) else find_audio(source)
        self.segments = [
            (file, number) for file in self.files for number in range(self._frames(file) // length)
        ]
        short = [str(file.path) for file in self.files if self._frames(file) < length]
        if not self.segments:
            raise ValueError(
                f"length must fit into a file, got {length}, longer than all of {len(short)} files"
            )
        if short:
            warnings.warn(f"shorter than one segment, so left out: {', '.join(short)}", stacklevel=2)

    def _frames(self, file: AudioFile) -> int:
        """Samples of a file at our rate, as `resample` makes them."""
        return -(-file.frames * self.sample_rate // file.sample_rate)

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: int) -> Float[Tensor, " length"]:
        file, number = self.segments[index]
        start = number * self.length
        if file.sample_rate == self.sample_rate:
            segment, _ = read(file.path, start, self.length)
        else:
            segment = self._resampled(file, start)
        if len(segment) < self.length:
            raise ValueError(f"{file.path} ends before the {file.frames} samples that its header promises")
        return segment

    def _resampled(self, file: AudioFile, start: int) -> Tensor:
        """Samples start.. at our rate: the same as if the whole file had been resampled.

        The read begins where both clocks agree (at whole multiples of the rates' common period) and takes a
        margin on both sides, because the filter looks some samples ahead and back.
        """
        common = math.gcd(file.sample_rate, self.sample_rate)
        period_in, period_out = file.sample_rate // common, self.sample_rate // common
        margin = 1 + 10 // min(period_in, period_out)  # the filter reaches 10 samples of the slower rate
        first = max(0, start // period_out - margin)
        last = -(-(start + self.length) // period_out) + margin
        begin, end = first * period_in, min(last * period_in, file.frames)
        piece, _ = read(file.path, begin, end - begin)
        offset = start - first * period_out
        return resample(piece, file.sample_rate, self.sample_rate)[offset : offset + self.length]
