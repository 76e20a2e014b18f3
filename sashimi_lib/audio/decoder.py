"""Recordings decoded by blocks, to their end, whatever their headers say; and mixed down to one channel.

An hour of sound never lies in memory as it was recorded. libsndfile, which decodes, stops where a header says
that a file ends. Two kinds of files need more than that: FLAC from a pipe or a killed program, whose header
knows no length; and MP3 without the frame that holds it, whose length libsndfile guesses from the number of
bytes, or joined of several files, of which it sees the first.

Chapter: 1.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float32

BLOCK = 1 << 18  # values decoded at once, those of all channels counted
MP3_LEAD = 10 * 1152  # ten frames: an MP3 decoder that starts in the middle needs a few before it is right
UNKNOWN = 1 << 62  # samples: a header that knows no length gives the largest number there is
OVERSHOOT = 1.5  # times full scale, 3.5 dB: more than a lossy decoder or a limiter leaves
INTEGERS = 256  # times full scale: more than anybody amplifies floats
CANCELLED = 0.1  # of the level of the channels is left of their mean, 20 dB down
ENDLESS = 1_000  # times as long as it is: longer than any guess from its first frame
TAGS = 4_096  # bytes after an MP3 stream that need no looking at: fewer than a stream of a tenth of a second
HIGHEST_RATE = 1_000_000  # Hz; recorders of bats reach half of it
Block = Float32[np.ndarray, "_ _"]  # of samples and channels
FAILURES = (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError)


class Header(NamedTuple):
    """What the header of a file says: its rate in Hz, and how many samples a channel has, where it says that.

    ``whole`` is whether these can be all: not in an MP3 file of several streams, nor in one that was cut off.
    """

    sample_rate: int
    frames: int | None
    whole: bool


def header_of(path: Path) -> Header:
    """The header of an audio file.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> header_of(AUDIO / "piano.flac")
    Header(sample_rate=16000, frames=1280000, whole=True)

    Raises ValueError, naming the file, for one that is no audio or has an impossible rate.
    """
    with _errors_named(path), soundfile.SoundFile(path) as file:
        rate, frames, is_mp3 = file.samplerate, file.frames, file.format == "MP3"
    if not 1 <= rate <= HIGHEST_RATE:
        raise ValueError(
            f"{path} must have a sample rate of at most {HIGHEST_RATE:,} Hz, and its header says {rate:,}"
        )
    if not is_mp3:
        known = frames < UNKNOWN
        return Header(rate, frames if known else None, known)
    stream = _mp3_bytes(path)
    missing = path.stat().st_size - (stream or 0)
    return Header(rate, None if stream is None else frames, 0 <= missing <= TAGS)


def count_frames(path: Path, header: Header) -> int:
    """Samples of a channel. Only the last one is decoded where the header can be believed, else all.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> count_frames(AUDIO / "piano.flac", header_of(AUDIO / "piano.flac"))
    1280000

    Raises ValueError, naming the file, for one that is damaged or holds no samples.
    """
    said = header.frames or 0
    if header.whole and said and sum(map(len, blocks(path, said - 1, 1))):
        return said
    found = sum(map(len, blocks(path)))
    if not found:
        raise ValueError(f"{path} holds no samples{' that its header knows of' if said == 0 else ''}")
    return found


def lie(path: Path, header: Header, found: int) -> str:
    """What a header says wrongly of a file of so many samples, in words; or nothing.

    >>> lie(Path("a.mp3"), Header(8_000, 100, False), 250)
    'a.mp3 holds 250 samples, and its header says 100'
    """
    if header.frames in (None, found):
        return ""
    return f"{path} holds {found:,} samples, and its header says {header.frames:,}"


def blocks(path: Path, start: int = 0, frames: int | None = None) -> Iterator[Block]:
    """Samples ``start`` to ``start + frames - 1`` of a file, or all from there, one block after the other.

    A file whose header cannot be believed is decoded from its beginning, wherever ``start`` is.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> [block.shape for block in blocks(AUDIO / "piano.flac", 1000, 50)]
    [(50, 1)]

    Raises ValueError, naming the file, for one that is damaged.
    """
    header = header_of(path)
    with _errors_named(path), soundfile.SoundFile(path) as file:
        is_mp3 = file.format == "MP3"
        if header.whole and start <= (header.frames or 0):
            lead = min(start, MP3_LEAD) if is_mp3 else 0
            file.seek(start - lead)
            yield from _cut(_read_on(file), lead, frames)
        else:
            yield from _cut(_mp3_streams(path) if is_mp3 else _read_on(file), start, frames)


def _cut(pieces: Iterator[Block], start: int, frames: int | None) -> Iterator[Block]:
    """Samples ``start`` on, at most ``frames`` of them."""
    end = None if frames is None else start + frames
    for piece in pieces:
        wanted = piece[max(0, start) : end if end is None else max(0, end)]
        if len(wanted):
            yield wanted
        start -= len(piece)
        if end is not None:
            end -= len(piece)
            if end <= 0:
                return


def _read_on(file: soundfile.SoundFile) -> Iterator[Block]:
    """All that follows in an open file. FLAC of unknown length ends in an error that says nothing more."""
    size = max(1, BLOCK // file.channels)
    while True:
        block = np.full((size, file.channels), np.nan, np.float32)
        try:
            found, ended = len(file.read(out=block)), False
        except soundfile.SoundFileError:
            if file.frames < UNKNOWN:
                raise
            found, ended = int((~np.isnan(block[:, 0])).sum()), True  # what came before it is there
        if found:
            yield block[:found]
        if ended or not found:
            return


# --- MP3


class _Part(io.FileIO):
    """An MP3 file from some byte on, which says that it is ``times`` as long as it is.

    So libsndfile, which takes the length of a stream for what its number of bytes lets it expect, and stops
    there, decodes it to its end.
    """

    def __init__(self, path: Path, start: int, times: int) -> None:
        super().__init__(path, "rb")
        self.first, self.size = start, (path.stat().st_size - start) * times
        self.beyond: int | None = None  # a place after the true end, where libsndfile looks for tags
        super().seek(start)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.beyond = self.size + offset if whence == io.SEEK_END else None
        if whence != io.SEEK_END:
            super().seek(offset + (self.first if whence == io.SEEK_SET else 0), whence)
        return self.tell()

    def tell(self) -> int:
        return super().tell() - self.first if self.beyond is None else self.beyond

    def readinto(self, buffer: Any) -> int:
        if self.beyond is None:
            return super().readinto(buffer)
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def _mp3_streams(path: Path) -> Iterator[Block]:
    """All blocks of an MP3 file: of each stream, where several were joined."""
    begin, size, rate = 0, path.stat().st_size, 0
    while begin < size:
        times = ENDLESS if _mp3_bytes(path, begin) is None else 1
        with _Part(path, begin, times) as part:
            try:
                file = soundfile.SoundFile(part)
            except soundfile.SoundFileError:
                if begin:
                    return  # what follows are tags
                raise
            with file:
                rate = rate or file.samplerate
                if file.samplerate != rate:
                    raise ValueError(f"it was joined of streams of {rate:,} and {file.samplerate:,} Hz")
                yield from _read_on(file)
            if part.tell() <= 0:
                return
            begin += part.tell()


def _mp3_bytes(path: Path, begin: int = 0) -> int | None:
    """How many bytes an MP3 stream has, tags before it included, if it starts with a frame that says so: one
    that holds "Xing", or "Info" where the bit rate is constant. The length in samples stands there too."""
    with path.open("rb") as file:
        file.seek(begin)
        tag = file.read(10)
        size = sum(byte << 7 * n for n, byte in enumerate(reversed(tag[6:]))) + 10 if tag[:3] == b"ID3" else 0
        file.seek(begin + size)
        frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or frame[at + 7] & 3 != 3:  # the flags of both numbers
        return None
    return size + int.from_bytes(frame[at + 12 : at + 16], "big")


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Every failure of the decoder as a ValueError with the name of the file."""
    try:
        yield
    except FAILURES as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from error


# --- one channel of several


@dataclass
class Downmix:
    """Makes one channel of the blocks of a file: their mean. It keeps count of what is lost by it.

    Samples slightly beyond full scale, as lossy decoders leave them, are clipped and counted.

    >>> mix = Downmix(Path("a.wav"))
    >>> mix(np.array([[0.5, 1.0], [1.0, 1.5]], np.float32))
    array([0.75, 1.  ], dtype=float32)
    >>> mix.clipped
    1

    Raises ValueError, naming the file, for NaN or infinite samples, and for some far beyond full scale.
    """

    path: Path
    frames: int = 0
    clipped: int = 0
    energy: float = 0.0  # of the mean of the channels
    energy_apart: float = 0.0  # the mean of those of the channels

    def __call__(self, block: Block) -> Float32[np.ndarray, " _"]:
        mixed = block.mean(axis=1, dtype=np.float32)
        peak = float(np.abs(mixed).max())
        if not np.isfinite(peak):
            raise ValueError(f"{self.path} holds NaN or infinite samples")
        if peak > OVERSHOOT:
            hint = ": numbers of 16 bits kept as floats, to be divided by 32,768" if peak > INTEGERS else ""
            raise ValueError(
                f"{self.path} must lie in [-1, 1], and has samples of {peak:,.5g}{hint}; scale it"
            )
        self.frames += len(mixed)
        self.clipped += int((np.abs(mixed) > 1).sum())
        self.energy += float(np.square(mixed, dtype=np.float64).sum())
        self.energy_apart += float(np.square(block, dtype=np.float64).mean(axis=1).sum())
        return mixed.clip(-1, 1)

    def check_channels(self) -> None:
        """Raise ValueError, naming the file, where the channels cancel each other: one is the other turned
        round, as after a wrong cable."""
        if self.energy < CANCELLED**2 * self.energy_apart:
            raise ValueError(
                f"{self.path} has channels that cancel each other in their mean: keep one of them, or turn "
                "one round"
            )
