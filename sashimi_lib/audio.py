"""Audio in, audio out: reading, writing, resampling and loudness of mono waveforms.

A waveform in this library is a float tensor whose last axis is time and whose values lie in [-1, 1].
Every function here checks that first, so that a bad clip is named where it enters and not ten layers later.

Chapter: 1.
"""

import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from jaxtyping import Float, Shaped
from scipy.signal import resample_poly
from torch import Tensor

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
MP3_LEAD = 10 * 1152  # ten frames: an MP3 decoder that starts in the middle needs a few before it is right


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
    low, high = torch.stack(torch.aminmax(waveform.detach())).tolist()  # one read, which a GPU is waited for
    if not (math.isfinite(low) and math.isfinite(high)):  # aminmax passes a NaN on
        bad = int((~torch.isfinite(waveform)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite samples of {waveform.numel()}")
    if low < -1 or high > 1:
        raise ValueError(
            f"{name} must lie in [-1, 1], got values from {low:.4g} to {high:.4g}; clip it or scale it first"
        )


def check_sample_rate(sample_rate: int, name: str = "sample_rate") -> None:
    """Raise ValueError unless ``sample_rate`` is a positive whole number of samples per second.

    >>> check_sample_rate(16000)

    Chapter: 1.
    """
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int) or sample_rate < 1:
        raise ValueError(f"{name} must be a positive whole number of hertz, got {sample_rate!r}")


def read(path: str | Path, start: int = 0, frames: int | None = None) -> tuple[Float[Tensor, " length"], int]:
    """Read a WAV, FLAC, MP3 or OGG file as ``(waveform (L,) float32, sample_rate)``.

    Several channels are mixed down to one (their mean). ``start`` and ``frames`` count samples at the
    file's own rate, so that a piece of an hour-long file can be read without the rest.
    (Inside an MP3 the decoder may grumble on stderr about frames it has not seen; the result is right.)
    Raises FileNotFoundError for a missing file and ValueError, with the file's name, for one that is
    damaged, empty, or holds something else than finite audio.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write(Path(folder, "a.flac"), torch.tensor([0.0, 0.5, -1.0]), 8000)
    ...     read(Path(folder, "a.flac"))
    (tensor([ 0.0000,  0.5000, -1.0000]), 8000)

    Chapter: 1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such audio file: {path}")
    try:
        with soundfile.SoundFile(path) as file:
            sample_rate = file.samplerate
            lead = min(start, MP3_LEAD) if file.format == "MP3" else 0
            file.seek(start - lead)
            data = file.read(-1 if frames is None else lead + frames, dtype="float32", always_2d=True)[lead:]
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from error
    if len(data) == 0:
        raise ValueError(f"{path} holds no samples{f' from {start} on' if start else ''}")
    waveform = torch.from_numpy(data).mean(dim=1)
    if not torch.isfinite(waveform).all():
        raise ValueError(f"{path} holds NaN or infinite samples")
    # A lossy decoder may overshoot full scale a little; that is not worth refusing a file for.
    return waveform.clamp(-1, 1), sample_rate


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
def writing(path: str | Path, sample_rate: int) -> Iterator[Callable[[Float[Tensor, " length"]], None]]:
    """Write one clip as it comes, in pieces of any length: to a ``.wav`` or ``.flac`` file, 16 bits a sample,
    which gets its name when all of it is there.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with writing(Path(folder, "a.wav"), 8000) as write_on:
    ...         write_on(torch.zeros(100))
    ...         write_on(torch.zeros(20))
    ...     len(read(Path(folder, "a.wav"))[0])
    120

    Until then it is called ``NAME.partial``, and after an error it stays so, with what came before. Of no
    samples there is no file.

    Chapter: 1. Raises ValueError for another suffix, a rate that is none, and audio outside [-1, 1]; and
    OSError where nothing can be written.
    """
    path = Path(path)
    check_sample_rate(sample_rate)
    file_format = path.suffix.lower().lstrip(".")
    if file_format not in ("flac", "wav"):
        raise ValueError(f"path must end in .wav or .flac, got {path}")
    partial, length = path.with_name(path.name + ".partial"), 0

    def write_on(waveform: Float[Tensor, " length"]) -> None:
        nonlocal length
        check_waveform(waveform)
        file.write(_pcm(waveform))
        length += len(waveform)

    try:
        with soundfile.SoundFile(partial, "w", sample_rate, 1, "PCM_16", format=file_format.upper()) as file:
            yield write_on
        if length:
            os.replace(partial, path)  # atomic: a reader sees the old file or the new one
    except soundfile.SoundFileError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        if not length:
            partial.unlink(missing_ok=True)


def resample(
    waveform: Float[Tensor, "*batch length"], rate_in: int, rate_out: int
) -> Float[Tensor, "*batch resampled"]:
    """Change the sampling rate: low-pass below both Nyquist frequencies, then take new samples.

    A polyphase filter (`scipy.signal.resample_poly`). L samples become ceil(L * rate_out / rate_in).
    The filter may overshoot full scale next to a jump; what leaves [-1, 1] is clipped.
    Raises ValueError for bad audio or a rate that is not a positive whole number.

    >>> resample(torch.zeros(160), 16000, 8000).shape
    torch.Size([80])

    Chapter: 1.
    """
    check_waveform(waveform)
    check_sample_rate(rate_in, "rate_in")
    check_sample_rate(rate_out, "rate_out")
    if rate_in == rate_out:
        return waveform
    new = resample_poly(waveform.detach().cpu().double().numpy(), rate_out, rate_in, axis=-1)
    return torch.from_numpy(new).clamp(-1, 1).to(waveform)


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
