"""Audio in, audio out: reading, writing, resampling and loudness of mono waveforms.

A waveform in this library is a float tensor whose last axis is time and whose values lie in [-1, 1].
Every function here checks that first, so that a bad clip is named where it enters and not ten layers later.

Chapter: 1.
"""

import io
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from jaxtyping import Float, Shaped
from scipy.signal import resample_poly
from torch import Tensor

from sashimi_lib.audio.decoder import HIGHEST_RATE, Downmix, blocks, header_of, lie
from sashimi_lib.storage.atomic import partial_of

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
REACH = 10  # samples of the slower rate that the filter of `resample` reaches to each side


def check_waveform(waveform: Shaped[Tensor, "..."], name: str = "waveform") -> None:
    """Raise ValueError unless ``waveform`` is finite audio in [-1, 1] with at least one sample.

    ``name`` is what the message calls the argument.

    >>> check_waveform(torch.zeros(16))
    >>> check_waveform(torch.tensor([0.0, 1.5]), "clip")
    Traceback (most recent call last):
        ...
    ValueError: clip must lie in [-1, 1], got values from 0 to 1.5; clip it or scale it first

    Chapter: 1.
    """
    if not isinstance(waveform, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(waveform).__name__}")
    if not waveform.is_floating_point():
        raise ValueError(f"{name} must be floating-point audio in [-1, 1], got dtype {waveform.dtype}")
    if waveform.ndim == 0 or waveform.numel() == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {tuple(waveform.shape)}")
    low, high = torch.stack(torch.aminmax(waveform.detach())).tolist()  # one read, where it lies on a GPU
    if not (math.isfinite(low) and math.isfinite(high)):  # aminmax passes a NaN on
        bad = int((~torch.isfinite(waveform)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite samples of {waveform.numel()}")
    if low < -1 or high > 1:
        raise ValueError(
            f"{name} must lie in [-1, 1], got values from {low:.4g} to {high:.4g}; clip it or scale it first"
        )


def check_sample_rate(sample_rate: int, name: str = "sample_rate") -> None:
    """Raise ValueError unless ``sample_rate`` is a positive whole number of samples per second, and possible.

    >>> check_sample_rate(16000)

    Chapter: 1.
    """
    whole = isinstance(sample_rate, int) and not isinstance(sample_rate, bool)
    if not (whole and 1 <= sample_rate <= HIGHEST_RATE):
        raise ValueError(
            f"{name} must be a positive whole number of hertz, at most {HIGHEST_RATE:,}, got {sample_rate!r}"
        )


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


def resample(
    waveform: Float[Tensor, "*batch length"], rate_in: int, rate_out: int
) -> Float[Tensor, "*batch resampled"]:
    """Change the sampling rate: low-pass below both Nyquist frequencies, then take new samples.

    A polyphase filter (`scipy.signal.resample_poly`). L samples become ceil(L * rate_out / rate_in).
    The filter may overshoot full scale next to a jump; what leaves [-1, 1] is clipped.
    Raises ValueError for bad audio or a rate that is not a positive whole number.

    >>> resample(torch.zeros(160), 16000, 8000).shape
    torch.Size([80])

    Chapter: 1. By blocks: `resampled`.
    """
    check_waveform(waveform)
    check_sample_rate(rate_in, "rate_in")
    check_sample_rate(rate_out, "rate_out")
    if rate_in == rate_out:
        return waveform
    new = resample_poly(waveform.detach().cpu().double().numpy(), rate_out, rate_in, axis=-1)
    return torch.from_numpy(new).clamp(-1, 1).to(waveform)


def resampled(
    pieces: Iterable[Float[np.ndarray, " _"]], rate_in: int, rate_out: int
) -> Iterator[Float[np.ndarray, " _"]]:
    """What `resample` makes of all pieces of a waveform together, as it comes: in pieces of other lengths.

    Each is filtered with the samples on both sides that the filter reaches, and cut where the clocks of both
    rates agree.

    >>> pieces = [np.zeros(100), np.zeros(60)]
    >>> sum(len(piece) for piece in resampled(pieces, 16000, 8000))
    80

    Chapter: 1. Slow twin: `resample`. Raises ValueError for a rate that is not a positive whole number.
    """
    check_sample_rate(rate_in, "rate_in")
    check_sample_rate(rate_out, "rate_out")
    if rate_in == rate_out:
        yield from pieces
        return
    period_in, period_out, margin = resampling_periods(rate_in, rate_out)
    reach, least = margin * period_in, 4 * margin * period_in  # below that, most would be filtered twice
    held, done = np.zeros(0), 0  # samples of the input; those of them that are there for the filter alone
    for piece in chain(pieces, [None]):
        held = held if piece is None else np.concatenate([held, piece])
        ready = len(held) if piece is None else (len(held) - reach) // period_in * period_in
        if ready <= done or (piece is not None and ready - done < least):
            continue
        new = resample_poly(held, period_out, period_in)
        first, end = (count * period_out // period_in for count in (done, ready))
        yield new[first : None if piece is None else end].clip(-1, 1).astype(np.float32)
        kept = max(0, ready - reach)
        held, done = held[kept:], ready - kept


def resampling_periods(rate_in: int, rate_out: int) -> tuple[int, int, int]:
    """After how many samples of either rate both clocks agree, and how many such periods the filter reaches.

    >>> resampling_periods(48_000, 16_000), resampling_periods(44_100, 16_000)
    ((3, 1, 11), (441, 160, 1))
    """
    common = math.gcd(rate_in, rate_out)
    period_in, period_out = rate_in // common, rate_out // common
    return period_in, period_out, 1 + REACH // min(period_in, period_out)


def rms_db(waveform: Float[Tensor, "*batch length"]) -> float:
    """Loudness as root-mean-square level in dBFS: 0 for a full-scale square wave, -inf for silence.

    >>> round(rms_db(torch.full((100,), 0.1)), 2)
    -20.0

    Chapter: 1.
    """
    check_waveform(waveform)
    rms = float(waveform.detach().double().square().mean().sqrt())
    return 20 * math.log10(rms) if rms > 0 else -math.inf


def normalize_loudness(
    waveform: Float[Tensor, "*batch length"], db: float | int = -23.0
) -> Float[Tensor, "*batch length"]:
    """Scale to an RMS level of ``db`` dBFS, or as near to it as full scale allows without clipping.

    Silence stays silence. Raises ValueError for bad audio or a level above 0 dBFS.

    >>> round(rms_db(normalize_loudness(torch.tensor([0.5, -0.5]), -20)), 2)
    -20.0

    Chapter: 1.
    """
    check_waveform(waveform)
    if not (math.isfinite(db) and db <= 0):
        raise ValueError(f"db must be a finite level of at most 0 dBFS, got {db}")
    level = rms_db(waveform)
    if level == -math.inf:
        return waveform
    gain = min(10 ** ((db - level) / 20), 1 / float(waveform.detach().abs().max()))
    return (waveform.double() * gain).clamp(-1, 1).to(waveform)  # in float32 a large gain would overflow


def spectrogram_db(
    waveform: Float[Tensor, " length"], window: int = 512, hop: int = 128
) -> Float[Tensor, "frames bins"]:
    """Loudness of each frequency over time, in dB: a Hann window slides along, each stop gives one spectrum.

    Frame m covers samples m*hop - window/2 .. m*hop + window/2 (silence is assumed outside the clip), bin k
    is the frequency k * sample_rate / window, and a full-scale sine reads 0 dB. Nothing falls below -120 dB.
    Raises ValueError for bad audio, an odd or too small window, or a hop below 1.

    >>> spectrogram_db(torch.zeros(1024)).shape
    torch.Size([9, 257])

    Chapter: 1.
    """
    check_waveform(waveform)
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be one clip of shape (L,), got shape {tuple(waveform.shape)}")
    if window < 4 or window % 2 or hop < 1:
        raise ValueError(
            f"window must be even and at least 4, hop at least 1, got window={window}, hop={hop}"
        )
    w = torch.hann_window(window, dtype=torch.float64, device=waveform.device)
    padded = torch.nn.functional.pad(waveform.detach().double(), (window // 2, window // 2))
    spectrum = torch.fft.rfft(padded.unfold(0, window, hop) * w)
    amplitude = 2 * spectrum.abs() / w.sum()
    return (20 * torch.log10(amplitude.clamp_min(1e-6))).float()


def _pcm(waveform: Tensor) -> np.ndarray:
    """16-bit samples. soundfile would scale floats by 32767, which loses the last bit of a 16-bit clip."""
    return torch.round(waveform.detach().cpu().double() * 32768).clamp(-32768, 32767).to(torch.int16).numpy()
