"""Read, decode, encode and write mono audio files.

Chapter: 1.
"""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.audio.decoder import Downmix, blocks, header_of, lie
from sashimi_lib.audio.resampling import resampled
from sashimi_lib.audio.waveform import (
    check_sample_rate,
    check_waveform,
)
from sashimi_lib.storage.atomic import partial_of

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def read(path: str | Path, start: int = 0, frames: int | None = None) -> tuple[Float[Tensor, " length"], int]:
    """Read a WAV, FLAC, MP3 or OGG file, or another that libsndfile reads: ``(waveform (L,) float32, rate)``.

    Several channels are mixed down to one (their mean). ``start`` and ``frames`` count samples at the
    file's own rate, so that a piece of an hour-long file can be read without the rest.
    (Inside an MP3 the decoder may grumble on stderr about frames it has not seen; the result is right.)
    Warns, and raises, as `decode` does.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write(Path(folder, "a.flac"), torch.tensor([0.0, 0.5, -1.0]), 8000)
    ...     read(Path(folder, "a.flac"))
    (tensor([ 0.0000,  0.5000, -1.0000]), 8000)

    Chapter: 1.
    """
    sound = decode(path, None, start, frames)
    if sound.clipped:
        warnings.warn(f"{path}: clipped {sound.clipped:,} samples beyond full scale", stacklevel=2)
    if sound.lie:
        warnings.warn(sound.lie, stacklevel=2)
    return sound.waveform, sound.sample_rate


class Decoded(NamedTuple):
    """A recording as a waveform, and the rate of that in Hz; how many samples were slightly beyond full scale
    (as lossy decoders leave them), and so were clipped; and what its header says wrongly, in words."""

    waveform: Float[Tensor, " length"]
    sample_rate: int
    clipped: int
    lie: str


def decode(
    path: str | Path, sample_rate: int | None = None, start: int = 0, frames: int | None = None
) -> Decoded:
    """Read a file as `read` does, and `resample` it to a rate, block by block: an hour of 48 kHz stereo never
    lies in memory as that, and of 16 kHz it takes 230 MB.

    Files are read to their end, whatever their headers say.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> sound = decode(AUDIO / "piano.flac", sample_rate=8_000)
    >>> sound.waveform.shape, sound.clipped, sound.lie
    (torch.Size([640000]), 0, '')

    Chapter: 1. Raises FileNotFoundError for a missing file and ValueError, with the file's name, for one that
    is damaged, empty, or holds something else than finite audio, of which a wrong scale is named too; and for
    a whole recording whose channels cancel each other.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such audio file: {path}")
    header, mix, samples = header_of(path), Downmix(path), bytearray()
    rate = header.sample_rate if sample_rate is None else sample_rate
    for block in resampled(map(mix, blocks(path, start, frames)), header.sample_rate, rate):
        samples += block.tobytes()
    if not samples:
        raise ValueError(f"{path} holds no samples{f' from {start} on' if start else ''}")
    whole = start == 0 and frames is None
    if whole:
        mix.check_channels()
    waveform = torch.frombuffer(samples, dtype=torch.float32)
    return Decoded(waveform, rate, mix.clipped, lie(path, header, mix.frames) if whole else "")


def encode_bytes(waveform: Float[Tensor, " length"], sample_rate: int, file_format: str = "flac") -> bytes:
    """The bytes of an audio file, mono: "flac" and "wav" keep 16 bits a sample exactly, "mp3" is lossy.

    Equal input gives equal bytes. Raises ValueError for an unknown format, for audio outside [-1, 1],
    and for a rate that MP3 does not have.

    >>> encode_bytes(torch.zeros(8), 8000, "wav")[:4]
    b'RIFF'

    Chapter: 1.
    """
    check_waveform(waveform)
    check_sample_rate(sample_rate)
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be one clip of shape (L,), got shape {tuple(waveform.shape)}")
    if file_format not in ("flac", "wav", "mp3"):
        raise ValueError(f'file_format must be "flac", "wav" or "mp3", got {file_format!r}')
    if file_format == "mp3" and sample_rate not in MP3_RATES:
        raise ValueError(f"sample_rate must be one of {MP3_RATES} for MP3, got {sample_rate}")
    buffer = io.BytesIO()
    soundfile.write(buffer, _pcm(waveform), sample_rate, format=file_format.upper())
    return buffer.getvalue()


def write(path: str | Path, waveform: Float[Tensor, " length"], sample_rate: int) -> None:
    """Write one mono clip; the suffix (.wav, .flac, .mp3) chooses the format. 16 bits a sample.

    Raises what `encode_bytes` raises.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write(Path(folder, "silence.wav"), torch.zeros(100), 16000)

    Chapter: 1.
    """
    path = Path(path)
    path.write_bytes(encode_bytes(waveform, sample_rate, path.suffix.lower().lstrip(".")))


@contextmanager
def open_audio_writer(
    path: str | Path, sample_rate: int
) -> Iterator[Callable[[Float[Tensor, " length"]], None]]:
    """Write one clip as it comes, in pieces of any length: to a ``.wav`` or ``.flac`` file, 16 bits a sample,
    which gets its name when all of it is there.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with open_audio_writer(Path(folder, "a.wav"), 8000) as write_on:
    ...         write_on(torch.zeros(100))
    ...         write_on(torch.zeros(20))
    ...     len(read(Path(folder, "a.wav"))[0])
    120

    After an error what came before is a whole file, called ``NAME.partial``. Of no samples there is no file.

    Chapter: 1. Raises ValueError for another suffix, a rate that is none, and audio outside [-1, 1]; and
    OSError where nothing can be written.
    """
    path = Path(path)
    check_sample_rate(sample_rate)
    file_format = path.suffix.lower().lstrip(".")
    if file_format not in ("flac", "wav"):
        raise ValueError(f"path must end in .wav or .flac, got {path}")
    partial, target, length = partial_of(path), path.with_name(path.name + ".partial"), 0

    def write_on(waveform: Float[Tensor, " length"]) -> None:
        nonlocal length
        check_waveform(waveform)
        with output.reasons(path):
            file.write(_pcm(waveform))
        length += len(waveform)

    try:
        output = _Output(partial, "x")
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with (
            output,
            soundfile.SoundFile(output, "w", sample_rate, 1, "PCM_16", format=file_format.upper()) as file,
        ):
            yield write_on
            with output.reasons(path):
                file.close()  # the header too may find the disk full
        target = path
    finally:
        if length:
            os.replace(partial, target)  # atomic: a reader sees the old file or the new one
        else:
            partial.unlink(missing_ok=True)


class _Output(io.FileIO):
    """A file for libsndfile to write to, which tells of a failed write that it failed, but not why."""

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it; returns how much of it there was room for."""
        left, done = memoryview(data), 0
        try:
            while done < len(left):
                done += super().write(left[done:])
        except OSError as error:
            self.failed = error
        return done

    @contextmanager
    def reasons(self, path: Path) -> Iterator[None]:
        """Raise OSError with the reason where something is not written. (Of a write that was cut short
        soundfile says so by an assertion.)"""
        try:
            yield
        except (AssertionError, soundfile.SoundFileError) as error:
            self.failed = self.failed or OSError(0, str(error))
        if self.failed is not None:
            raise OSError(f"{path} cannot be written: {self.failed.strerror}") from self.failed


def _pcm(waveform: Tensor) -> np.ndarray:
    """16-bit samples. soundfile would scale floats by 32767, which loses the last bit of a 16-bit clip."""
    return torch.round(waveform.detach().cpu().double() * 32768).clamp(-32768, 32767).to(torch.int16).numpy()
