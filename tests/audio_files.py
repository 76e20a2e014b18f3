"""Audio files for tests: small ones, and ones with missing or wrong headers as they occur in practice."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch


def sine(frequency: float, rate: int, seconds: float = 0.5, amplitude: float = 0.5) -> torch.Tensor:
    t = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (amplitude * torch.sin(2 * torch.pi * frequency * t)).float()


def tune(seconds: float = 1.0, rate: int = 44_100, seed: int = 0) -> np.ndarray:
    """A sine in noise, quiet in its first half and loud in its second, so that the bit rate changes a lot."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(t))
    x = 0.3 * np.sin(2 * np.pi * 220 * t) + 0.03 * noise
    return (x * np.where(t < seconds / 2, 0.001, 1)).astype("float32")


def write_mp3(path: Path, x: np.ndarray, rate: int = 44_100, mode: str = "VARIABLE") -> Path:
    soundfile.write(
        path, x, rate, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.3
    )
    return path


def without_info_frame(path: Path) -> Path:
    """Remove the Info frame of an MP3 file, so that it begins with its first audio frame."""
    data = path.read_bytes()
    start = next(k for k in range(len(data)) if data[k] == 0xFF and data[k + 1] & 0xE0 == 0xE0)
    after = data.index(data[start : start + 2], start + 100)
    assert any(tag in data[start:after] for tag in (b"Info", b"Xing"))
    path.write_bytes(data[after:])
    return path


def with_unknown_length(path: Path) -> Path:
    """Remove the length from the header of a FLAC file, as an encoder that writes to a pipe leaves it."""
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO: the low four bits of byte 21, and bytes 22 to 25
    data[22:26] = bytes(4)
    path.write_bytes(data)
    return path


def wav(
    length: int = 400, rate: int = 16_000, channels: int = 1, subtype: str = "PCM_16", seed: int = 0
) -> bytes:
    noise = np.random.default_rng(seed).uniform(-0.3, 0.5, (length, channels))
    file = io.BytesIO()
    soundfile.write(file, noise, rate, subtype=subtype, format="WAV")
    return file.getvalue()


@contextmanager
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
