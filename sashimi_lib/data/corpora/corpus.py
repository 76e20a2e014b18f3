"""A corpus: download it, split it as published, cut it into segments, and quantize them.

Chapter: 10.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from sashimi_lib.audio import Quantizer, check_waveform, decode
from sashimi_lib.data.clips import AudioFile, probe_files
from sashimi_lib.data.corpora.archive import Archive, download, unpack
from sashimi_lib.data.split import PARTS, Split, summarize

ENCODE_CHUNK = 1 << 20  # samples quantized at a time
SILENCE_RANGE = 2**-15  # peak to peak, one step of 16 bits: at most this is silence


def normalize_min_max(waveform: Float[Tensor, " length"]) -> Float[Tensor, " length"]:
    """Normalize a clip by its minimum and maximum: the minimum becomes -1, the maximum just under 1.

    The published SaShiMi code does so with every segment, of training and test, before quantization. Offset
    and gain therefore differ between segments, and silence becomes the lowest code.

    >>> normalize_min_max(torch.tensor([0.1, 0.2, 0.5]))
    tensor([-1.0000, -0.5000,  1.0000])

    Chapter: 10. Raises ValueError as `sashimi_lib.audio.check_waveform` does.
    """
    check_waveform(waveform)
    low, high = torch.aminmax(waveform)
    return -1 + 2 * (waveform - low) / (high - low + 1e-6)


class Codes(Dataset[Tensor]):
    """A dataset of sequences of codes, int64 of shape (length,) or (length, 2), stored as one byte per code.

    Ten hours at 16 kHz take half a gigabyte, instead of 4.6 as int64. ``recordings`` holds the path of the
    recording of each sequence, if known: segments of one recording are not statistically independent.

    >>> codes = Codes([torch.tensor([1, 2, 255])], levels=256, recordings=[Path("a.wav")])
    >>> len(codes), codes[0], codes.recordings
    (1, tensor([  1,   2, 255]), (PosixPath('a.wav'),))

    Chapter: 10. Raises ValueError unless there are as many recordings as sequences.
    """

    def __init__(
        self,
        sequences: Iterable[Integer[Tensor, "..."]],
        levels: int,
        recordings: Iterable[Path] | None = None,
    ) -> None:
        self.sequences = [sequence.to(storage_dtype(levels)) for sequence in sequences]
        self.recordings = None if recordings is None else tuple(recordings)
        if self.recordings is not None and len(self.recordings) != len(self.sequences):
            raise ValueError(
                f"recordings must be {len(self.sequences)}, one per sequence, got {len(self.recordings)}"
            )

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> Int[Tensor, "..."]:
        return self.sequences[index].long()


def storage_dtype(levels: int) -> torch.dtype:
    """Return the dtype in which `Codes` stores codes with ``levels`` values.

    >>> storage_dtype(256)
    torch.uint8
    """
    return torch.uint8 if levels <= 256 else torch.int32


@dataclass(frozen=True)
class Corpus:
    """A set of recordings with its split and preprocessing, which together make likelihoods comparable.

    Preprocessing is ``sample_rate``, ``length`` (samples per segment; None: whole recordings), ``quantizer``
    and ``min_max_normalized``: whether each segment is scaled by its own minimum and maximum before
    quantization (`normalize_min_max`), as in the published SaShiMi code. Without that, codes and likelihoods
    differ and do not compare with the paper. To change it:
    ``dataclasses.replace(SC09, min_max_normalized=False)``.

    ``marker`` is a glob pattern that identifies the root folder of the corpus, ``split`` maps that folder to
    the files of each part, ``label`` maps a file to its class, and ``n_recordings`` is the expected number of
    files.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> from sashimi_lib.data.corpora import FOLDER
    >>> {part: len(paths) for part, paths in FOLDER.paths(AUDIO).items()}
    {'train': 13, 'valid': 1, 'test': 1}
    >>> codes = FOLDER.codes(AUDIO, "test")
    >>> codes[0].dtype
    torch.int64

    Chapter: 10.
    """

    name: str
    description: str
    homepage: str
    license: str
    sample_rate: int
    quantizer: Quantizer
    min_max_normalized: bool
    length: int | None
    marker: str
    split: Callable[[Path], Split]
    archive: Archive | None = None
    label: Callable[[Path], int] | None = None
    n_recordings: int | None = None

    def fetch(self, folder: str | Path, progress: bool = True) -> Path:
        """Download and unpack the corpus into ``folder/NAME``, unless that exists; return that folder.

        The archive is kept in ``folder``; one that was placed there by hand is used. Raises as
        `sashimi_lib.data.corpora.archive.download` and `sashimi_lib.data.corpora.archive.unpack` do, and
        ValueError for a folder of user recordings, which has no archive.
        """
        if self.archive is None:
            raise ValueError(f"{self.name} is a folder of your own recordings: there is nothing to fetch")
        target = Path(folder) / self.name
        if not target.is_dir():  # the name exists only when unpacking is complete
            path = download(self.archive, folder, progress)
            unpack(path, target, self.archive.members, progress, self.archive.max_bytes)
        return target

    def root(self, folder: str | Path) -> Path:
        """Return the root folder of the corpus: ``folder/NAME``, a subfolder of it, or ``folder`` itself.

        Raises FileNotFoundError, with instructions, if there is none.
        """
        folder = Path(folder)
        if self.archive is None:
            if next(folder.glob(self.marker), None) is None:
                raise FileNotFoundError(f"{folder} must be a folder of recordings, but is missing or empty")
            return folder
        target = folder / self.name
        for root in (target, *sorted(path for path in target.glob("*") if path.is_dir()), folder):
            if next(root.glob(self.marker), None) is not None:
                return root
        raise FileNotFoundError(
            f"{self.name} is not in {folder}: found no {self.marker} there or in {target}. Fetch it; or "
            f"download {self.archive.filename} ({self.archive.size}) from {self.archive.url}, move it to "
            f"{folder / self.archive.filename}, and fetch it to unpack it"
        )

    def paths(self, folder: str | Path) -> Split:
        """Return the paths of the files of "train", "valid" and "test"; no file is opened.

        Warns if there are not ``n_recordings`` files. Raises FileNotFoundError if the corpus, or a file that
        defines its split, is missing.
        """
        split = self.split(self.root(folder))
        found = sum(map(len, split.values()))
        if self.n_recordings not in (None, found):
            warnings.warn(
                f"{self.name} in {folder} must have {self.n_recordings:,} recordings, got {found:,}: another "
                "version or incomplete; likelihoods do not compare with published ones",
                stacklevel=2,
            )
        return split

    def files(self, folder: str | Path, part: str) -> list[AudioFile]:
        """Return the usable files of one part; unusable ones are skipped with a warning, and move no other.

        Warns too of files of a published corpus in another format than published. Raises ValueError if
        ``part`` is not "train", "valid" or "test", or has no usable audio; and as `paths` does.
        """
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
        return self._usable(folder, part, self.paths(folder)[part])

    def parts(self, folder: str | Path) -> dict[str, list[AudioFile]]:
        """Return the usable files of all parts. Raises and warns as `files` does."""
        split = self.paths(folder)
        return {part: self._usable(folder, part, paths) for part, paths in split.items()}

    def _usable(self, folder: str | Path, part: str, paths: list[Path]) -> list[AudioFile]:
        found, problems = probe_files(paths)
        if not found:
            raise ValueError(
                f"{self.name} in {folder} must have usable audio for {part}, got none"
                f"{': ' if problems else ''}{'; '.join(problems)}"
            )
        if self.archive is not None:
            odd = [f"{file.path} ({what})" for file in found if (what := self._format_mismatch(file))]
            problems += [f"converted files in another format than published: {summarize(odd)}"] if odd else []
        for problem in problems:
            warnings.warn(problem, stacklevel=3)
        return found

    def _format_mismatch(self, file: AudioFile) -> str:
        """Describe how a file differs from the published format, 16-bit mono; empty if it does not."""
        info = soundfile.info(file.path, verbose=True)
        differences = {
            f"{info.samplerate} Hz": info.samplerate != self.sample_rate,
            f"{info.channels} channels": info.channels != 1,
            info.subtype: info.subtype != "PCM_16",
            "truncated": "should be" in info.extra_info,  # in libsndfile's log, if the header says more
        }
        return ", ".join(what for what, differs in differences.items() if differs)

    def waveforms(
        self, folder: str | Path, part: str, progress: bool = False
    ) -> list[Float[Tensor, " length"]]:
        """Return the segments of one part: ``length`` samples at ``sample_rate``, mono, not normalized.

        The last segment of a recording may be shorter, as in the published configurations of 2022. Raises and
        warns as `files` and `segments` do.
        """
        return [segment for segment, _ in self.segments(self.files(folder, part), progress)]

    def labeled(
        self, folder: str | Path, part: str, progress: bool = False
    ) -> list[tuple[Float[Tensor, " length"], int]]:
        """Return the segments of one part with their classes. Raises ValueError if there are no classes."""
        if self.label is None:
            raise ValueError(f"{self.name} must be a corpus with classes, but has none")
        return [(x, self.label(path)) for x, path in self.segments(self.files(folder, part), progress)]

    def codes(self, folder: str | Path, part: str, progress: bool = False) -> Codes:
        """Return the segments of one part as codes of ``quantizer``. Raises and warns as `waveforms` does."""
        return self.codes_of(self.files(folder, part), progress)

    def codes_of(self, files: Sequence[AudioFile], progress: bool = False) -> Codes:
        """Return the segments of files as codes. Raises and warns as `segments` does."""
        sequences, recordings = [], []
        for segment, path in self.segments(files, progress):  # one at a time, to save memory
            sequences.append(self._encode(segment))
            recordings.append(path)
        return Codes(sequences, self.quantizer.levels, recordings)

    def _encode(self, segment: Float[Tensor, " length"]) -> Integer[Tensor, "length *two"]:
        waveform = normalize_min_max(segment) if self.min_max_normalized else segment
        dtype = storage_dtype(self.quantizer.levels)
        return torch.cat([self.quantizer.encode(chunk).to(dtype) for chunk in waveform.split(ENCODE_CHUNK)])

    def segments(
        self, files: Sequence[AudioFile], progress: bool = False
    ) -> Iterator[tuple[Float[Tensor, " _"], Path]]:
        """Yield the segments of files, as `waveforms` returns them, each with the path of its recording.

        Recordings that cannot be decoded (see `sashimi_lib.audio.decode`) are skipped and named in a warning
        at the end; so are silent ones, except in published corpora. Another warning names recordings with
        clipped samples. Raises ValueError if all recordings are skipped.
        """
        errors: list[str] = []
        clipped: dict[Path, int] = {}
        for file in tqdm(files, desc=self.name, unit="file", disable=not progress):
            try:
                decoded = decode(file.path, self.sample_rate)
                if self.archive is None:
                    check_not_silent(decoded.waveform, file.path)
            except ValueError as error:
                errors.append(str(error))
                continue
            if decoded.clipped:
                clipped[file.path] = decoded.clipped
            for segment in decoded.waveform.split(self.length or len(decoded.waveform)):
                yield segment, file.path
        if len(errors) == len(files):
            raise ValueError(f"none of {len(files):,} recordings can be used: {summarize(errors)}")
        if errors:
            skipped = f"skipped {len(errors):,} of {len(files):,} recordings: {summarize(errors)}"
            warnings.warn(skipped, stacklevel=2)
        if clipped:
            counts = [f"{path} ({count:,})" for path, count in clipped.items()]
            warnings.warn(f"clipped samples beyond full scale: {summarize(counts)}", stacklevel=2)


def check_not_silent(waveform: Float[Tensor, " length"], path: Path) -> None:
    """Raise ValueError, naming the file, if all its samples are equal.

    >>> check_not_silent(torch.zeros(10), Path("a.wav"))
    Traceback (most recent call last):
        ...
    ValueError: a.wav is silent
    """
    low, high = torch.aminmax(waveform)
    if high - low <= SILENCE_RANGE:
        raise ValueError(f"{path} is silent")
