"""What is known of a corpus, and how it is read: fetched, split as published, cut, and turned into codes.

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

from sashimi_lib.audio import check_waveform, decode
from sashimi_lib.audio.quantizers import Quantizer
from sashimi_lib.data.clips import AudioFile, probe_files
from sashimi_lib.data.corpora.archive import Archive, download, unpack
from sashimi_lib.data.split import PARTS, Split, summary

AT_ONCE = 1 << 20  # samples that are turned into codes together
SILENCE = 2**-15  # the range of a recording of nothing: a step of 16 bits


def normalize_min_max(waveform: Float[Tensor, " length"]) -> Float[Tensor, " length"]:
    """A clip stretched to its own extremes: its lowest sample becomes -1, its highest just under 1.

    So the published code treats every segment before it quantises it, whether of training or of test. It
    shifts the zero and the loudness of each segment by another amount, and makes silence the lowest code.

    >>> normalize_min_max(torch.tensor([0.1, 0.2, 0.5]))
    tensor([-1.0000, -0.5000,  1.0000])

    Chapter: 10. Raises ValueError as `sashimi_lib.audio.check_waveform` does.
    """
    check_waveform(waveform)
    low, high = torch.aminmax(waveform)
    return -1 + 2 * (waveform - low) / (high - low + 1e-6)


class Codes(Dataset[Tensor]):
    """Sequences of codes as training takes them, int64 (length,) or (length, 2), kept as one byte a code.

    Ten hours at 16 kHz take half a gigabyte so, and four and a half as int64. ``recordings`` has the path of
    the recording that each sequence is a piece of, where they are known: pieces of one are not independent.

    >>> codes = Codes([torch.tensor([1, 2, 255])], levels=256, recordings=[Path("a.wav")])
    >>> len(codes), codes[0], codes.recordings
    (1, tensor([  1,   2, 255]), (PosixPath('a.wav'),))

    Chapter: 10. Raises ValueError for another number of recordings than of sequences.
    """

    def __init__(
        self,
        sequences: Iterable[Integer[Tensor, "..."]],
        levels: int,
        recordings: Iterable[Path] | None = None,
    ) -> None:
        self.sequences = [sequence.to(kept_as(levels)) for sequence in sequences]
        self.recordings = None if recordings is None else tuple(recordings)
        if self.recordings is not None and len(self.recordings) != len(self.sequences):
            raise ValueError(
                f"recordings must be {len(self.sequences)}, one for each sequence, got {len(self.recordings)}"
            )

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> Int[Tensor, "..."]:
        return self.sequences[index].long()


def kept_as(levels: int) -> torch.dtype:
    """The smallest type that `Codes` keeps so many codes in.

    >>> kept_as(256)
    torch.uint8
    """
    return torch.uint8 if levels <= 256 else torch.int32


@dataclass(frozen=True)
class Corpus:
    """Recordings that models are compared on, and the choices without which their likelihoods do not compare.

    ``min_max`` is the trap. The published code stretches every segment to its own extremes before quantising
    it (`normalize_min_max`); whoever leaves that out gets other codes, other likelihoods, and no comparison with the
    paper. So it is part of a corpus, beside ``quantizer``, ``sample_rate`` and ``length``, the samples of a
    segment (None: recordings go whole). To read it another way, say so:
    ``dataclasses.replace(SC09, min_max=False)``.

    ``marker`` is a pattern of files that tells where the corpus lies below the folder that is given, and
    ``split`` says by their names which of them are for what, and ``label`` which class of sound each is,
    where there are classes. ``recordings`` is how many there should be.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> from sashimi_lib.data.corpora import FOLDER
    >>> {part: len(paths) for part, paths in FOLDER.paths(AUDIO).items()}
    {'train': 11, 'valid': 1, 'test': 1}
    >>> codes = FOLDER.codes(AUDIO, "test")
    >>> codes[0].dtype
    torch.int64

    Chapter: 10.
    """

    name: str
    about: str
    page: str
    licence: str
    sample_rate: int
    quantizer: Quantizer
    min_max: bool
    length: int | None
    marker: str
    split: Callable[[Path], Split]
    archive: Archive | None = None
    label: Callable[[Path], int] | None = None
    recordings: int | None = None

    def fetch(self, folder: str | Path, progress: bool = True) -> Path:
        """Download and unpack into ``folder/NAME``, unless it is there; returns that folder.

        The archive stays in ``folder``, and one that was put there by hand is used. Raises as
        `sashimi_lib.data.corpora.archive.download` and `sashimi_lib.data.corpora.archive.unpack` do, and
        ValueError for a corpus of one's own, which is nowhere to be fetched.
        """
        if self.archive is None:
            raise ValueError(f"{self.name} is a folder of your own recordings: there is nothing to fetch")
        home = Path(folder) / self.name
        if not home.is_dir():  # it has this name only when it is whole
            path = download(self.archive, folder, progress)
            unpack(path, home, self.archive.only, progress, self.archive.most)
        return home

    def root(self, folder: str | Path) -> Path:
        """Where the corpus lies: in ``folder/NAME`` or a folder in that, or, as one's own, in ``folder``.

        Raises FileNotFoundError, saying what is missing, where it comes from and where to put it.
        """
        folder = Path(folder)
        if self.archive is None:
            if next(folder.glob(self.marker), None) is None:
                raise FileNotFoundError(f"{folder} must be a folder of recordings; it is missing, or empty")
            return folder
        home = folder / self.name
        for root in (home, *sorted(path for path in home.glob("*") if path.is_dir()), folder):
            if next(root.glob(self.marker), None) is not None:
                return root
        raise FileNotFoundError(
            f"{self.name} is not in {folder}: no {self.marker} there, nor in {home}. Fetch it; or get "
            f"{self.archive.file} ({self.archive.size}) from {self.archive.url}, put it at "
            f"{folder / self.archive.file}, and fetch it then, which unpacks it"
        )

    def paths(self, folder: str | Path) -> Split:
        """The paths of "train", "valid" and "test", by their names alone.

        Warns of another number of recordings than there should be. Raises FileNotFoundError for a corpus, or
        a list of its split, that is not there.
        """
        split = self.split(self.root(folder))
        found = sum(map(len, split.values()))
        if self.recordings not in (None, found):
            warnings.warn(
                f"{self.name} in {folder} has {found:,} recordings instead of {self.recordings:,}: another "
                "version, or not all of it; likelihoods do not compare with published ones",
                stacklevel=2,
            )
        return split

    def files(self, folder: str | Path, part: str) -> list[AudioFile]:
        """The usable files of one part; others are left out and named in a warning, the rest stays in place.

        Warns too of files of a published corpus that are not as published. Raises ValueError for another part
        than "train", "valid" and "test", and for one without usable audio; and as `paths` does.
        """
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
        return self._usable(folder, part, self.paths(folder)[part])

    def parts(self, folder: str | Path) -> dict[str, list[AudioFile]]:
        """The same for all parts, of which every file is looked at once. Raises and warns as `files` does."""
        split = self.paths(folder)
        return {part: self._usable(folder, part, paths) for part, paths in split.items()}

    def _usable(self, folder: str | Path, part: str, paths: list[Path]) -> list[AudioFile]:
        found, remarks = probe_files(paths)
        if not found:
            raise ValueError(
                f"{self.name} in {folder} has no usable audio for {part}{': ' if remarks else ''}"
                f"{'; '.join(remarks)}"
            )
        if self.archive is not None:
            odd = [f"{file.path} ({what})" for file in found if (what := self._format_mismatch(file))]
            remarks += [f"not as published, but read all the same: {summary(odd)}"] if odd else []
        for remark in remarks:
            warnings.warn(remark, stacklevel=3)
        return found

    def _format_mismatch(self, file: AudioFile) -> str:
        """What about a file is not as in the published archive, all of 16-bit mono, in words; or nothing."""
        info = soundfile.info(file.path, verbose=True)
        found = {
            f"{info.samplerate} Hz": info.samplerate != self.sample_rate,
            f"{info.channels} channels": info.channels != 1,
            info.subtype: info.subtype != "PCM_16",
            "cut short": "should be" in info.extra_info,  # libsndfile's log, where a header promises more
        }
        return ", ".join(what for what, is_so in found.items() if is_so)

    def waveforms(
        self, folder: str | Path, part: str, progress: bool = False
    ) -> list[Float[Tensor, " length"]]:
        """One part in pieces of ``length`` samples at ``sample_rate``, mono, as loud as they are.

        What is left at the end of a recording is a shorter piece, as in the published configurations of 2022.
        Raises and warns as `files` and `pieces` do.
        """
        return [piece for piece, _ in self.pieces(self.files(folder, part), progress)]

    def labelled(
        self, folder: str | Path, part: str, progress: bool = False
    ) -> list[tuple[Float[Tensor, " length"], int]]:
        """The same, each piece with the class of its recording. Raises ValueError for a corpus without
        classes."""
        if self.label is None:
            raise ValueError(f"{self.name} must have classes, and has none")
        return [(x, self.label(path)) for x, path in self.pieces(self.files(folder, part), progress)]

    def codes(self, folder: str | Path, part: str, progress: bool = False) -> Codes:
        """The same as codes of ``quantizer``, each piece `normalize_min_max` on its own where ``min_max`` says so."""
        return self.codes_of(self.files(folder, part), progress)

    def codes_of(self, files: Sequence[AudioFile], progress: bool = False) -> Codes:
        """The codes of some files. Raises and warns as `pieces` does."""
        sequences, recordings = [], []
        for piece, path in self.pieces(files, progress):  # one at a time, for together they take much room
            sequences.append(self._encoded(piece))
            recordings.append(path)
        return Codes(sequences, self.quantizer.levels, recordings)

    def _encoded(self, piece: Float[Tensor, " length"]) -> Integer[Tensor, "length *two"]:
        waveform, kept = normalize_min_max(piece) if self.min_max else piece, kept_as(self.quantizer.levels)
        return torch.cat([self.quantizer.encode(part).to(kept) for part in waveform.split(AT_ONCE)])

    def pieces(
        self, files: Sequence[AudioFile], progress: bool = False
    ) -> Iterator[tuple[Float[Tensor, " _"], Path]]:
        """Pieces of some files, as `waveforms` has them, each with the path of its recording.

        Recordings that turn out unusable (see `sashimi_lib.audio.decode`) are left out and named in a warning
        at the end; so are silent ones, but of published corpora, which stay as they are. Those with clipped
        samples are named too. Raises ValueError where nothing is left.
        """
        bad: list[str] = []
        clipped: dict[Path, int] = {}
        for file in tqdm(files, desc=self.name, unit="file", disable=not progress):
            try:
                sound = decode(file.path, self.sample_rate)
                if self.archive is None:
                    check_sound(sound.waveform, file.path)
            except ValueError as error:
                bad.append(str(error))
                continue
            if sound.clipped:
                clipped[file.path] = sound.clipped
            for piece in sound.waveform.split(self.length or len(sound.waveform)):
                yield piece, file.path
        if len(bad) == len(files):
            raise ValueError(f"none of {len(files):,} recordings can be used: {summary(bad)}")
        if bad:
            warnings.warn(f"left out {len(bad):,} of {len(files):,} recordings: {summary(bad)}", stacklevel=2)
        if clipped:
            counts = [f"{path} ({count:,})" for path, count in clipped.items()]
            warnings.warn(f"clipped samples beyond full scale: {summary(counts)}", stacklevel=2)


def check_sound(waveform: Float[Tensor, " length"], path: Path) -> None:
    """Raise ValueError, naming the file, for silence.

    >>> check_sound(torch.zeros(10), Path("a.wav"))
    Traceback (most recent call last):
        ...
    ValueError: a.wav is silent
    """
    low, high = torch.aminmax(waveform)
    if high - low <= SILENCE:
        raise ValueError(f"{path} is silent")
