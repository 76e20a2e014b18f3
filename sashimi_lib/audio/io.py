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

from sashimi_lib.audio.decoder import Downmix, header_mismatch, read_blocks, read_header
from sashimi_lib.audio.resampling import resample_stream
from sashimi_lib.audio.waveform import check_sample_rate, check_waveform
from sashimi_lib.storage.atomic import partial_path

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def read(path: str | Path, start: int = 0, frames: int | None = None) -> tuple[Float[Tensor, " length"], int]:
    """Read an audio file and return ``(waveform, sample_rate)``; the waveform is float32 of shape (L,).

    WAV, FLAC, MP3, OGG and every other format of libsndfile. Several channels are mixed down to their mean.
    ``start`` and ``frames`` count samples at the file's own rate and select a segment, so that an hour-long
    file need not be decoded as a whole. (After a seek in an MP3 file the decoder may print a warning about
    missing frames on stderr; the result is correct.)
    Warns of clipped samples and of a wrong header. Raises as `decode` does.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write(Path(folder, "a.flac"), torch.tensor([0.0, 0.5, -1.0]), 8000)
    ...     read(Path(folder, "a.flac"))
    (tensor([ 0.0000,  0.5000, -1.0000]), 8000)

    Chapter: 1.
    """
    decoded = decode(path, None, start, frames)
    if decoded.clipped:
        warnings.warn(f"{path}: clipped {decoded.clipped:,} samples beyond full scale", stacklevel=2)
    if decoded.header_mismatch:
        warnings.warn(decoded.header_mismatch, stacklevel=2)
    return decoded.waveform, decoded.sample_rate


class Decoded(NamedTuple):
    """A decoded recording.

    ``sample_rate`` is that of ``waveform``, in Hz. ``clipped`` counts samples slightly beyond full scale, as
    lossy decoders produce them. ``header_mismatch`` describes a wrong length in the header, or is empty.
    """

    waveform: Float[Tensor, " length"]
    sample_rate: int
    clipped: int
    header_mismatch: str


def decode(
    path: str | Path, sample_rate: int | None = None, start: int = 0, frames: int | None = None
) -> Decoded:
    """Decode an audio file, mix it down to mono and resample it to ``sample_rate``, block by block.

    Only the result is held in memory: 230 MB for an hour at 16 kHz. Files are decoded to their true end,
    whatever their headers say. ``start`` and ``frames`` count samples at the file's own rate.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> decoded = decode(AUDIO / "piano.flac", sample_rate=8_000)
    >>> decoded.waveform.shape, decoded.clipped, decoded.header_mismatch
    (torch.Size([640000]), 0, '')

    Chapter: 1. Raises FileNotFoundError for a missing file. Raises ValueError, naming the file, if it is
    damaged, contains no samples, NaN or infinite samples, or samples far beyond [-1, 1], or if the channels
    of a whole recording cancel each other.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such audio file: {path}")
    header, mix, samples = read_header(path), Downmix(path), bytearray()
    rate = header.sample_rate if sample_rate is None else sample_rate
    for block in resample_stream(map(mix, read_blocks(path, start, frames)), header.sample_rate, rate):
        samples += block.tobytes()
    if not samples:
        raise ValueError(f"{path} contains no samples{f' from index {start} on' if start else ''}")
    is_whole_file = start == 0 and frames is None
    if is_whole_file:
        mix.check_channels()
    mismatch = header_mismatch(path, header, mix.frames) if is_whole_file else ""
    return Decoded(torch.frombuffer(samples, dtype=torch.float32), rate, mix.clipped, mismatch)


def encode_bytes(waveform: Float[Tensor, " length"], sample_rate: int, file_format: str = "flac") -> bytes:
    """Encode a mono waveform as the bytes of an audio file: "flac" and "wav" with 16 bits, or lossy "mp3".

    Deterministic. Raises ValueError for an unknown format, for invalid audio, and for a sample rate that MP3
    does not support.

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
    """Write a mono waveform to a file, whose suffix (.wav, .flac, .mp3) selects the format; 16-bit samples.

    Raises as `encode_bytes` does.

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
    """Open a ``.wav`` or ``.flac`` file for writing in chunks; yields the function that writes one.

    Chunks have any length, samples 16 bits. The file gets its name when it is complete.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with open_audio_writer(Path(folder, "a.wav"), 8000) as write_chunk:
    ...         write_chunk(torch.zeros(100))
    ...         write_chunk(torch.zeros(20))
    ...     len(read(Path(folder, "a.wav"))[0])
    120

    After an error, what was written so far is kept as a valid file ``NAME.partial``. Without any samples no
    file is created.

    Chapter: 1. Raises ValueError for another suffix, an invalid sample rate or invalid audio, and OSError,
    naming the file, if it cannot be written.
    """
    path = Path(path)
    check_sample_rate(sample_rate)
    file_format = path.suffix.lower().lstrip(".")
    if file_format not in ("flac", "wav"):
        raise ValueError(f"path must end in .wav or .flac, got {path}")
    partial, target, length = partial_path(path), path.with_name(path.name + ".partial"), 0

    def write_chunk(waveform: Float[Tensor, " length"]) -> None:
        nonlocal length
        check_waveform(waveform)
        with output.named_errors(path):
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
            yield write_chunk
            with output.named_errors(path):
                file.close()  # writes the header, which may fail on a full disk too
        target = path
    finally:
        if length:
            os.replace(partial, target)  # atomic: a reader sees the old file or the new one
        else:
            partial.unlink(missing_ok=True)


class _Output(io.FileIO):
    """An output file for libsndfile that keeps the cause of a failed write; libsndfile does not report it."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of ``data`` if possible; return the number of bytes written."""
        view, written = memoryview(data), 0
        try:
            while written < len(view):
                written += super().write(view[written:])
        except OSError as error:
            self.error = error
        return written

    @contextmanager
    def named_errors(self, path: Path) -> Iterator[None]:
        """Raise OSError, naming the file and the cause, if a write fails.

        soundfile reports a short write by an AssertionError.
        """
        try:
            yield
        except (AssertionError, soundfile.SoundFileError) as error:
            self.error = self.error or OSError(0, str(error))
        if self.error is not None:
            raise OSError(f"{path} cannot be written: {self.error.strerror}") from self.error


def _pcm(waveform: Tensor) -> np.ndarray:
    """Round to 16-bit samples. soundfile would scale floats by 32767, which loses the last bit."""
    return torch.round(waveform.detach().cpu().double() * 32768).clamp(-32768, 32767).to(torch.int16).numpy()
