"""Datasets from folders of audio files, of every format that libsndfile reads.

Audio stays on disk: only the length of each file is read at first, and each segment when it is accessed.
Unusable files are skipped with a warning that names them; a folder without usable files is an error.

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
from sashimi_lib.audio.decoder import count_frames, header_mismatch, read_header
from sashimi_lib.data.split import summarize

# The formats of libsndfile, except tables of numbers (.mat), headerless samples (.raw) and instruments.
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64",
    ".wave", ".bwf", ".rf64", ".voc", ".nist", ".sph", ".sf", ".ircam", ".avr", ".paf", ".pvf", ".svx",
    ".8svx", ".iff", ".sd2", ".sds", ".htk", ".wve", ".mp2", ".mpga",
)  # fmt: skip
# Audio formats that libsndfile does not read: such files are reported.
UNSUPPORTED_SUFFIXES = (
    ".m4a", ".m4b", ".mp4", ".aac", ".adts", ".wma", ".ape", ".wv", ".tta", ".mpc", ".spx", ".amr", ".awb",
    ".ac3", ".eac3", ".dts", ".dsf", ".dff", ".ra", ".3gp", ".mka", ".mkv", ".webm", ".mov", ".avi", ".alac",
)  # fmt: skip
SYSTEM_FOLDERS = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information")


@dataclass(frozen=True)
class AudioFile:
    """An audio file: its path, its sample rate in Hz, and its length in samples at that rate."""

    path: Path
    sample_rate: int
    frames: int


def find_audio(folder: str | Path) -> list[AudioFile]:
    """Return the usable audio files in ``folder`` and its subfolders, sorted by path.

    Symbolic links are followed; hidden files and system folders are skipped. Only headers are read, as far as
    they are reliable. Unusable files are named in one warning. Raises ValueError if ``folder`` does not
    exist, or contains no usable audio.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> len(find_audio(AUDIO))
    15

    Chapter: 1.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"folder must be an existing folder, got {folder}")
    paths = audio_paths(folder)
    if not paths:
        raise ValueError(f"folder must contain audio files (WAV, FLAC, MP3, ...), got none in {folder}")
    found, problems = probe_files(paths)
    if not found:
        raise ValueError(f"folder must contain usable audio, got none in {folder}: {'; '.join(problems)}")
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    return found


def audio_paths(folder: Path) -> list[Path]:
    """Return all files below a folder with the suffix of an audio format, sorted by path.

    Warns, in one line, of files in audio formats that libsndfile does not read.

    >>> audio_paths(Path("nowhere"))
    []

    Chapter: 1.
    """
    paths = sorted(_walk(folder))
    unsupported = [path for path in paths if path.suffix.lower() in UNSUPPORTED_SUFFIXES]
    if unsupported:
        suffixes = Counter(path.suffix.lower() for path in unsupported).most_common()
        counts = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes)
        names = summarize([str(path) for path in unsupported])
        warnings.warn(f"skipped unsupported formats: {counts} ({names}); convert them", stacklevel=2)
    return [path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES]


def _walk(root: Path) -> Iterator[Path]:
    """Yield every file below a folder once, except hidden ones.

    Real folders come before linked ones, so that a link does not change the path of a file inside the folder.
    """
    visited, roots = set(), [str(root)]
    while roots:
        links = []
        for folder, subfolders, names in chain.from_iterable(map(os.walk, roots)):
            real = os.path.realpath(folder)
            subfolders[:] = [] if real in visited else sorted(n for n in subfolders if not _is_hidden(n))
            links += [path for name in subfolders if os.path.islink(path := os.path.join(folder, name))]
            yield from (Path(folder, name) for name in names if real not in visited and not _is_hidden(name))
            visited.add(real)
        roots = links


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS


def probe_files(paths: list[Path]) -> tuple[list[AudioFile], list[str]]:
    """Return the usable files among ``paths``, and descriptions of unusable files and wrong headers.

    Only the header and the last sample of a file are read if its header is reliable.

    >>> probe_files([Path("missing.wav")])
    ([], ["skipped 1 of 1 files: missing.wav cannot be read as audio: ..."])

    Chapter: 1.
    """
    found, errors, mismatches = [], [], []
    for path in paths:
        try:
            header = read_header(path)
            file = AudioFile(path, header.sample_rate, count_frames(path, header))
        except ValueError as error:
            errors.append(str(error))
        else:
            found.append(file)
            mismatches.append(header_mismatch(path, header, file.frames))
    skipped = [f"skipped {len(errors):,} of {len(paths):,} files: {summarize(errors, 50)}"] if errors else []
    return found, skipped + [mismatch for mismatch in mismatches if mismatch]


class ClipFolder(Dataset[Tensor]):
    """A dataset of non-overlapping mono segments of ``length`` samples at ``sample_rate``.

    ``source`` is a folder, or a list of files as `find_audio` returns it. Files of other rates are resampled,
    several channels are mixed down. The remainder of a file, shorter than ``length``, is dropped; files
    shorter than one segment are named in a warning. Raises ValueError for a folder without usable audio, an
    invalid length or rate, and if no file is long enough; and on access to a segment that is damaged.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> clips = ClipFolder([f for f in find_audio(AUDIO) if f.path.name == "piano.flac"], length=128_000)
    >>> len(clips), clips[0].shape
    (10, torch.Size([128000]))

    Chapter: 1.
    """

    def __init__(self, source: str | Path | list[AudioFile], length: int, sample_rate: int = 16_000) -> None:
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ValueError(f"length must be a positive integer (samples), got {length!r}")
        check_sample_rate(sample_rate)
        self.length = length
        self.sample_rate = sample_rate
        self.files = source if isinstance(source, list) else find_audio(source)
        self.segments = [
            (file, index) for file in self.files for index in range(self._resampled_length(file) // length)
        ]
        short = [str(file.path) for file in self.files if self._resampled_length(file) < length]
        if not self.segments:
            raise ValueError(
                f"length must fit into the longest file, got {length}, longer than all of {len(short)} files"
            )
        if short:
            warnings.warn(
                f"skipped {len(short):,} files shorter than one segment: {summarize(short)}", stacklevel=2
            )

    def _resampled_length(self, file: AudioFile) -> int:
        """Return the length of a file at ``sample_rate``, as `resample` gives it."""
        return -(-file.frames * self.sample_rate // file.sample_rate)

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: int) -> Float[Tensor, " length"]:
        file, segment_index = self.segments[index]
        start = segment_index * self.length
        if file.sample_rate == self.sample_rate:
            segment, _ = read(file.path, start, self.length)
        else:
            segment = self._read_resampled(file, start)
        if len(segment) < self.length:
            raise ValueError(
                f"{file.path} must contain {file.frames} samples, as its header says, but ends earlier"
            )
        return segment

    def _read_resampled(self, file: AudioFile, start: int) -> Tensor:
        """Return the segment from ``start`` on at ``sample_rate``, equal to a slice of the resampled file.

        What is read begins at a multiple of the common period of both rates, and includes a margin of the
        filter's half-length on both sides.
        """
        period_in, period_out, margin = resampling_periods(file.sample_rate, self.sample_rate)
        first = max(0, start // period_out - margin)
        last = -(-(start + self.length) // period_out) + margin
        begin, end = first * period_in, min(last * period_in, file.frames)
        segment, _ = read(file.path, begin, end - begin)
        offset = start - first * period_out
        return resample(segment, file.sample_rate, self.sample_rate)[offset : offset + self.length]
