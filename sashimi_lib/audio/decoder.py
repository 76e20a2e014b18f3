"""Decode audio files block by block, whatever their headers claim, and mix them down to mono.

Memory use does not grow with the length of a recording. libsndfile, which does the decoding, stops where the
header says that the file ends. That is not enough for FLAC from a pipe or a killed program, whose header
gives no length; for MP3 without an Info frame, whose length libsndfile estimates from the number of bytes;
and for several MP3 files joined into one, of which it decodes only the first.

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

BLOCK_SIZE = 1 << 18  # values decoded at a time, summed over channels
MP3_PREROLL = 10 * 1152  # samples, ten frames: an MP3 decoder needs a few frames after a seek to settle
UNKNOWN_LENGTH = 1 << 62  # samples: libsndfile reports the largest integer for an unknown length
CLIP_TOLERANCE = 1.5  # times full scale, 3.5 dB: more than a lossy decoder or a limiter overshoots
INTEGER_SCALE = 256  # times full scale: beyond any gain applied to floats, so the samples are integers
CANCELLATION = 0.1  # level of the downmix relative to the channels: 20 dB of loss
LENGTH_FACTOR = 1_000  # overstates the size of an MP3 stream beyond any estimate from its first frame
MAX_TRAILING_TAGS = 4_096  # bytes of tags after an MP3 stream: less than a tenth of a second of audio
MAX_SAMPLE_RATE = 1_000_000  # Hz; recorders of ultrasound reach half of it
Block = Float32[np.ndarray, "_ _"]  # (samples, channels)
DECODER_ERRORS = (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError)


class Header(NamedTuple):
    """The header of an audio file: sample rate in Hz, and samples per channel or None if it gives no length.

    ``is_reliable`` is False if the file may hold more or fewer samples than ``frames``: for a header without
    a length, and for an MP3 file that is truncated or consists of several streams.
    """

    sample_rate: int
    frames: int | None
    is_reliable: bool


def read_header(path: Path) -> Header:
    """Return the header of an audio file.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> read_header(AUDIO / "piano.flac")
    Header(sample_rate=16000, frames=1280000, is_reliable=True)

    Raises ValueError, naming the file, if it is not audio or its sample rate is out of range.
    """
    with _name_errors(path), soundfile.SoundFile(path) as file:
        rate, frames, is_mp3 = file.samplerate, file.frames, file.format == "MP3"
    if not 1 <= rate <= MAX_SAMPLE_RATE:
        raise ValueError(
            f"{path} must have a sample rate from 1 to {MAX_SAMPLE_RATE:,} Hz, got {rate:,} in its header"
        )
    if not is_mp3:
        has_length = frames < UNKNOWN_LENGTH
        return Header(rate, frames if has_length else None, has_length)
    stream_size = _mp3_stream_size(path)
    trailing = path.stat().st_size - (stream_size or 0)
    return Header(rate, None if stream_size is None else frames, 0 <= trailing <= MAX_TRAILING_TAGS)


def count_frames(path: Path, header: Header) -> int:
    """Count the samples per channel, decoding only the last one if the header is reliable, else the file.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> count_frames(AUDIO / "piano.flac", read_header(AUDIO / "piano.flac"))
    1280000

    Raises ValueError, naming the file, if it is damaged or contains no samples.
    """
    claimed = header.frames or 0
    if header.is_reliable and claimed and sum(map(len, read_blocks(path, claimed - 1, 1))):
        return claimed
    found = sum(map(len, read_blocks(path)))
    if not found:
        raise ValueError(
            f"{path} contains no samples{', according to its header' if header.frames == 0 else ''}"
        )
    return found


def header_mismatch(path: Path, header: Header, found: int) -> str:
    """Describe how the length in a header differs from the ``found`` samples; empty if it does not.

    >>> header_mismatch(Path("a.mp3"), Header(8_000, 100, False), 250)
    'a.mp3 contains 250 samples, but its header says 100'
    """
    if header.frames in (None, found):
        return ""
    return f"{path} contains {found:,} samples, but its header says {header.frames:,}"


def read_blocks(path: Path, start: int = 0, frames: int | None = None) -> Iterator[Block]:
    """Yield ``frames`` samples of a file from ``start`` on, or all of them, as blocks (samples, channels).

    A file without a reliable header is decoded from its beginning, whatever ``start`` is.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> [block.shape for block in read_blocks(AUDIO / "piano.flac", 1000, 50)]
    [(50, 1)]

    Raises ValueError, naming the file, if it is damaged.
    """
    header = read_header(path)
    with _name_errors(path), soundfile.SoundFile(path) as file:
        is_mp3 = file.format == "MP3"
        if header.is_reliable and start <= (header.frames or 0):
            preroll = min(start, MP3_PREROLL) if is_mp3 else 0
            file.seek(start - preroll)
            yield from _slice_blocks(_read_to_end(file), preroll, frames)
        else:
            yield from _slice_blocks(_mp3_streams(path) if is_mp3 else _read_to_end(file), start, frames)


def _slice_blocks(blocks: Iterator[Block], start: int, frames: int | None) -> Iterator[Block]:
    """Yield samples from ``start`` on, at most ``frames`` of them."""
    end = None if frames is None else start + frames
    for block in blocks:
        selected = block[max(0, start) : end if end is None else max(0, end)]
        if len(selected):
            yield selected
        start -= len(block)
        if end is not None:
            end -= len(block)
            if end <= 0:
                return


def _read_to_end(file: soundfile.SoundFile) -> Iterator[Block]:
    """Yield the remaining blocks of an open file, up to the error in which FLAC of unknown length ends."""
    size = max(1, BLOCK_SIZE // file.channels)
    while True:
        block = np.full((size, file.channels), np.nan, np.float32)
        try:
            found, ended = len(file.read(out=block)), False
        except soundfile.SoundFileError:
            if file.frames < UNKNOWN_LENGTH:
                raise
            found, ended = int((~np.isnan(block[:, 0])).sum()), True  # decoded before the error
        if found:
            yield block[:found]
        if ended or not found:
            return


# --- MP3


class _MP3Stream(io.FileIO):
    """A view of an MP3 file from byte ``start`` on, which reports ``factor`` times its true size.

    libsndfile estimates the length of a stream from its size and stops there. With an overstated size it
    decodes to the true end.
    """

    def __init__(self, path: Path, start: int, factor: int) -> None:
        super().__init__(path, "rb")
        self.start, self.size = start, (path.stat().st_size - start) * factor
        self.virtual_position: int | None = None  # beyond the true end, where libsndfile looks for tags
        super().seek(start)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.virtual_position = self.size + offset if whence == io.SEEK_END else None
        if whence != io.SEEK_END:
            super().seek(offset + (self.start if whence == io.SEEK_SET else 0), whence)
        return self.tell()

    def tell(self) -> int:
        return super().tell() - self.start if self.virtual_position is None else self.virtual_position

    def readinto(self, buffer: Any) -> int:
        if self.virtual_position is None:
            return super().readinto(buffer)
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def _mp3_streams(path: Path) -> Iterator[Block]:
    """Yield the blocks of every stream in an MP3 file: several, if files were concatenated."""
    start, size, rate = 0, path.stat().st_size, 0
    while start < size:
        factor = LENGTH_FACTOR if _mp3_stream_size(path, start) is None else 1
        with _MP3Stream(path, start, factor) as stream:
            try:
                file = soundfile.SoundFile(stream)
            except soundfile.SoundFileError:
                if start:
                    return  # only tags follow
                raise
            with file:
                rate = rate or file.samplerate
                if file.samplerate != rate:
                    raise ValueError(
                        f"its streams have different sample rates, {rate:,} and {file.samplerate:,} Hz"
                    )
                yield from _read_to_end(file)
            if stream.tell() <= 0:
                return
            start += stream.tell()


def _mp3_stream_size(path: Path, start: int = 0) -> int | None:
    """Return the size in bytes of an MP3 stream, leading tags included; None if it has no Info frame.

    The Info frame is marked "Xing", or "Info" if the bit rate is constant, and gives the number of samples
    too.
    """
    with path.open("rb") as file:
        file.seek(start)
        tag = file.read(10)
        size = sum(byte << 7 * n for n, byte in enumerate(reversed(tag[6:]))) + 10 if tag[:3] == b"ID3" else 0
        file.seek(start + size)
        frame = file.read(256)
    marker = max(frame.find(b"Xing"), frame.find(b"Info"))
    if marker < 0 or frame[marker + 7] & 3 != 3:  # the flags of both numbers
        return None
    return size + int.from_bytes(frame[marker + 12 : marker + 16], "big")


@contextmanager
def _name_errors(path: Path) -> Iterator[None]:
    """Raise every error of the decoder as a ValueError that names the file."""
    try:
        yield
    except DECODER_ERRORS as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from error


# --- downmix


@dataclass
class Downmix:
    """Mix the blocks of a file down to mono, the mean of their channels, and track what is lost.

    Samples slightly beyond full scale, as lossy decoders produce them, are clipped and counted.

    >>> mix = Downmix(Path("a.wav"))
    >>> mix(np.array([[0.5, 1.0], [1.0, 1.5]], np.float32))
    array([0.75, 1.  ], dtype=float32)
    >>> mix.clipped
    1

    Raises ValueError, naming the file, for NaN or infinite samples and for samples far beyond full scale.
    """

    path: Path
    frames: int = 0
    clipped: int = 0
    mix_energy: float = 0.0  # of the mean of the channels
    channel_energy: float = 0.0  # mean over the channels of their energies

    def __call__(self, block: Block) -> Float32[np.ndarray, " _"]:
        mixed = block.mean(axis=1, dtype=np.float32)
        peak = float(np.abs(mixed).max())
        if not np.isfinite(peak):
            raise ValueError(f"{self.path} must be finite, got NaN or infinite samples")
        if peak > CLIP_TOLERANCE:
            is_integer = peak > INTEGER_SCALE
            hint = "16-bit integers stored as floats? divide by 32,768" if is_integer else "scale it first"
            raise ValueError(f"{self.path} must lie in [-1, 1], got a peak of {peak:,.5g}; {hint}")
        self.frames += len(mixed)
        self.clipped += int((np.abs(mixed) > 1).sum())
        self.mix_energy += float(np.square(mixed, dtype=np.float64).sum())
        self.channel_energy += float(np.square(block, dtype=np.float64).mean(axis=1).sum())
        return mixed.clip(-1, 1)

    def check_channels(self) -> None:
        """Raise ValueError, naming the file, if the channels cancel in the mix, as with inverted polarity."""
        if self.mix_energy < CANCELLATION**2 * self.channel_energy:
            raise ValueError(
                f"{self.path} has channels that cancel each other when mixed down to mono: keep one, or "
                "invert the polarity of one"
            )
