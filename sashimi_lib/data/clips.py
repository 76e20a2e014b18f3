"""Folders of one's own recordings, of every format that libsndfile reads, as equal segments to learn from.

A folder of hours stays on disk: only the length of each file is read at the start, and each segment when it
is asked for. Files that cannot be used are named in a warning and left out; a folder with nothing usable
raises.

Chapter: 1; used wherever a model is trained on a corpus.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from sashimi_lib.audio import check_sample_rate, read, resample, resampling_periods
from sashimi_lib.audio.decoder import count_frames, header_of, lie
from sashimi_lib.data.split import summary

# What libsndfile reads, but for tables of numbers (.mat), samples without a header (.raw) and instruments.
SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64",
    ".wave", ".bwf", ".rf64", ".voc", ".nist", ".sph", ".sf", ".ircam", ".avr", ".paf", ".pvf", ".svx",
    ".8svx", ".iff", ".sd2", ".sds", ".htk", ".wve", ".mp2", ".mpga",
)  # fmt: skip
# Recordings all the same, of which whoever asks for a folder to be read should know.
UNREADABLE = (
    ".m4a", ".m4b", ".mp4", ".aac", ".adts", ".wma", ".ape", ".wv", ".tta", ".mpc", ".spx", ".amr", ".awb",
    ".ac3", ".eac3", ".dts", ".dsf", ".dff", ".ra", ".3gp", ".mka", ".mkv", ".webm", ".mov", ".avi", ".alac",
)  # fmt: skip
BINS = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information")  # what systems leave on disks


@dataclass(frozen=True)
class AudioFile:
    """What is known of a file before it is read: where it is, its own rate, its length at that rate."""

    path: Path
    sample_rate: int
    frames: int


def find_audio(folder: str | Path) -> list[AudioFile]:
    """Every usable audio file under ``folder``, by path; the others are named in one warning.

    Folders that links lead to are part of it. Names that begin with a dot are not, nor are the folders that
    systems leave on disks. Only headers are read, as far as they can be believed. Raises ValueError if
    ``folder`` is no folder, holds no audio, or none that is usable.

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
        raise ValueError(f"folder must hold WAV, FLAC, MP3 or other audio files, found none in {folder}")
    found, remarks = probe_files(paths)
    if not found:
        raise ValueError(f"folder {folder} holds no usable audio: {'; '.join(remarks)}")
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    return found


def audio_paths(folder: Path) -> list[Path]:
    """All files below a folder that audio is called like, by path. Warns, in one line, of such as are called
    like recordings that libsndfile does not read.

    >>> audio_paths(Path("nowhere"))
    []

    Chapter: 1.
    """
    paths = sorted(path for path in _files(folder))
    unread = [path for path in paths if path.suffix.lower() in UNREADABLE]
    if unread:
        kinds = Counter(path.suffix.lower() for path in unread).most_common()
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds)
        names = summary([str(path) for path in unread])
        warnings.warn(f"left out, for they cannot be read: {counts} ({names}); convert them", stacklevel=2)
    return [path for path in paths if path.suffix.lower() in SUFFIXES]


def _files(top: Path) -> Iterator[Path]:
    """Every file below a folder once, but for hidden ones: in real folders first, then in those that links
    lead to, so that a link changes no path of a file that is there without it."""
    seen, tops = set(), [str(top)]
    while tops:
        links = []
        for folder, below, names in chain.from_iterable(map(os.walk, tops)):
            real = os.path.realpath(folder)
            below[:] = [] if real in seen else sorted(name for name in below if not _is_hidden(name))
            links += [path for name in below if os.path.islink(path := os.path.join(folder, name))]
            yield from (Path(folder, name) for name in names if real not in seen and not _is_hidden(name))
            seen.add(real)
        tops = links


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in BINS


def probe_files(paths: list[Path]) -> tuple[list[AudioFile], list[str]]:
    """The usable ones of these files, in their order; and what is wrong with others or with headers.

    Only headers and the last sample of each are read, where headers can be believed.

    >>> probe_files([Path("missing.wav")])
    ([], ["left out 1 of 1 files: missing.wav cannot be read as audio: ..."])

    Chapter: 1.
    """
    found, bad, lies = [], [], []
    for path in paths:
        try:
            header = header_of(path)
            file = AudioFile(path, header.sample_rate, count_frames(path, header))
        except ValueError as error:
            bad.append(str(error))
        else:
            found.append(file)
            lies.append(lie(path, header, file.frames))
    remarks = [f"left out {len(bad):,} of {len(paths):,} files: {summary(bad, 50)}"] if bad else []
    return found, remarks + [said for said in lies if said]


class ClipFolder(Dataset[Tensor]):
    """Non-overlapping segments of ``length`` samples at ``sample_rate``, mono, from files or a folder.

    ``source`` is a folder, or a list of files as `find_audio` gives it. Other rates are
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
            warnings.warn(
                f"left out {len(short):,} files shorter than one segment: {summary(short)}", stacklevel=2
            )

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
        period_in, period_out, margin = resampling_periods(file.sample_rate, self.sample_rate)
        first = max(0, start // period_out - margin)
        last = -(-(start + self.length) // period_out) + margin
        begin, end = first * period_in, min(last * period_in, file.frames)
        piece, _ = read(file.path, begin, end - begin)
        offset = start - first * period_out
        return resample(piece, file.sample_rate, self.sample_rate)[offset : offset + self.length]
