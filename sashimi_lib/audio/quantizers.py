"""Quantizers: map a waveform in [-1, 1] to integer codes that a softmax can predict, and back.

Each has ``levels``, ``silence`` (the code of zero), ``encode`` and ``decode``:

    MuLaw        8 bits by default, step size grows with the amplitude (SaShiMi, WaveNet)
    Linear       uniform steps, any even number of levels
    CoarseFine   16 bits as two bytes, so that codes have a last axis of size 2 (WaveRNN)

None of them rescales its input. The published SaShiMi code normalizes every clip to its own minimum and
maximum before quantization; this changes likelihoods, so it is left to the caller
(`sashimi_lib.data.corpora.normalize_min_max`).

Chapter: 1. Formulas: the code published with the SaShiMi paper (Goel et al., 2022).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sashimi_lib.audio.waveform import check_waveform
from sashimi_lib.registry import register


def _check_levels(levels: int) -> None:
    if isinstance(levels, bool) or not isinstance(levels, int) or not 2 <= levels <= 65536 or levels % 2:
        raise ValueError(f"levels must be an even integer from 2 to 65536, got {levels!r}")


def check_codes(codes: Shaped[Tensor, "..."], levels: int, name: str = "codes") -> None:
    """Raise ValueError unless ``codes`` is a non-empty integer tensor with values from 0 to ``levels`` - 1.

    >>> check_codes(torch.tensor([0, 256]), 256)
    Traceback (most recent call last):
        ...
    ValueError: codes must lie in 0..255, got values from 0 to 256

    Chapter: 1.
    """
    if not isinstance(codes, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(codes).__name__}")
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"{name} must be integers (int64), got dtype {codes.dtype}")
    if codes.ndim == 0 or codes.numel() == 0:
        raise ValueError(f"{name} must hold at least one code, got shape {tuple(codes.shape)}")
    low, high = torch.stack(torch.aminmax(codes)).tolist()  # one transfer from a GPU
    if low < 0 or high >= levels:
        raise ValueError(f"{name} must lie in 0..{levels - 1}, got values from {low} to {high}")


def _to_steps(y: Tensor, levels: int) -> Tensor:
    """Map [-1, 1] to 0..levels-1. The 0.01 keeps 1 in the last step, the 0.005 keeps 0 in the middle one."""
    return torch.floor((y + 1) / 2 * (levels - 0.01) + 0.005).long()


@register
@dataclass(frozen=True)
class MuLaw:
    """A mu-law quantizer: uniform steps of the compressed amplitude y.

    q = floor((y + 1)/2 * (levels - 0.01) + 0.005),
    y = sign(x) log(1 + mu |x|) / log(1 + mu),  mu = levels - 1.

    Decoding returns the lower edge of a step, as the published code does, and is therefore asymmetric: code 0
    is -1, code 128 is 0, code 255 is +0.957. A decoded positive value lies just below its own step, so
    ``encode(decode(q))`` is q for q <= levels/2 and q - 1 above. Models feed back codes, not waveforms.

    >>> MuLaw().encode(torch.tensor([-1, -0.5, -0.1, -0.01, 0, 0.01, 0.1, 0.5, 1]))
    tensor([  0,  15,  52,  98, 128, 157, 203, 240, 255])

    Chapter: 1.
    """

    levels: int = 256

    def __post_init__(self) -> None:
        _check_levels(self.levels)

    @property
    def silence(self) -> int:
        """Code of a zero sample."""
        return self.levels // 2

    def check(self, codes: Shaped[Tensor, "..."], name: str = "codes") -> None:
        """Raise ValueError, naming the argument, unless ``codes`` are valid codes of this quantizer."""
        check_codes(codes, self.levels, name)

    def encode(self, waveform: Float[Tensor, "*batch length"]) -> Int[Tensor, "*batch length"]:
        """Quantize a waveform in [-1, 1] to int64 codes. Raises ValueError as `check_waveform` does."""
        check_waveform(waveform)
        x, mu = waveform.double(), self.levels - 1
        return _to_steps(torch.sign(x) * torch.log1p(mu * x.abs()) / math.log1p(mu), self.levels)

    def decode(self, codes: Int[Tensor, "*batch length"]) -> Float[Tensor, "*batch length"]:
        """Map codes to a float32 waveform. Raises ValueError for codes outside 0..levels-1."""
        self.check(codes)
        y = codes.double() / self.silence - 1
        return (torch.sign(y) * torch.expm1(y.abs() * math.log(self.levels)) / (self.levels - 1)).float()


@register
@dataclass(frozen=True)
class Linear:
    """A uniform quantizer: q = floor((x + 1)/2 * (levels - 0.01) + 0.005).

    Decoding returns the lower edge of a step.

    >>> Linear(16).encode(torch.tensor([-1.0, 0.0, 0.5, 1.0]))
    tensor([ 0,  8, 11, 15])

    Chapter: 1.
    """

    levels: int = 256

    def __post_init__(self) -> None:
        _check_levels(self.levels)

    @property
    def silence(self) -> int:
        """Code of a zero sample."""
        return self.levels // 2

    def check(self, codes: Shaped[Tensor, "..."], name: str = "codes") -> None:
        """Raise ValueError, naming the argument, unless ``codes`` are valid codes of this quantizer."""
        check_codes(codes, self.levels, name)

    def encode(self, waveform: Float[Tensor, "*batch length"]) -> Int[Tensor, "*batch length"]:
        """Quantize a waveform in [-1, 1] to int64 codes. Raises ValueError as `check_waveform` does."""
        check_waveform(waveform)
        return _to_steps(waveform.double(), self.levels)

    def decode(self, codes: Int[Tensor, "*batch length"]) -> Float[Tensor, "*batch length"]:
        """Map codes to a float32 waveform. Raises ValueError for codes outside 0..levels-1."""
        self.check(codes)
        return (codes.double() / self.silence - 1).float()


@register
@dataclass(frozen=True)
class CoarseFine:
    """A 16-bit quantizer with two codes per sample: round(32768 x) + 32768 = 256 coarse + fine.

    Lossless for 16-bit audio: each of the 65,536 values is reconstructed. (x = +1 is not a 16-bit value; it
    becomes the largest one, 32767/32768.) With fewer ``levels`` there are ``levels**2`` steps in all.

    >>> CoarseFine().encode(torch.tensor([-1.0, 0.0, 0.5]))
    tensor([[  0,   0],
            [128,   0],
            [192,   0]])

    Chapters: 1 and 8; WaveRNN (Kalchbrenner et al., 2018), section 2.
    """

    levels: int = 256  # of each of the two codes

    def __post_init__(self) -> None:
        _check_levels(self.levels)
        if self.levels > 256:
            raise ValueError(f"levels must be at most 256 (16 bits in total), got {self.levels}")

    @property
    def silence(self) -> tuple[int, int]:
        """Coarse and fine code of a zero sample."""
        return (self.levels // 2, 0)

    def check(self, codes: Shaped[Tensor, "..."], name: str = "codes") -> None:
        """Raise ValueError, naming the argument, unless ``codes`` are valid codes of this quantizer."""
        check_codes(codes, self.levels, name)
        if codes.ndim < 2 or codes.shape[-1] != 2:
            raise ValueError(f"{name} must have shape (..., L, 2), coarse and fine, got {tuple(codes.shape)}")

    def encode(self, waveform: Float[Tensor, "*batch length"]) -> Int[Tensor, "*batch length 2"]:
        """Quantize a waveform (..., L) to codes (..., L, 2). Raises ValueError as `check_waveform` does."""
        check_waveform(waveform)
        half = self.levels**2 // 2
        value = (torch.round(waveform.double() * half) + half).clamp(0, 2 * half - 1).long()
        return torch.stack([value // self.levels, value % self.levels], dim=-1)

    def decode(self, codes: Int[Tensor, "*batch length 2"]) -> Float[Tensor, "*batch length"]:
        """Map codes (..., L, 2) to a float32 waveform (..., L). Raises ValueError for invalid codes."""
        self.check(codes)
        coarse, fine = codes.double().unbind(-1)
        half = self.levels**2 // 2
        return ((self.levels * coarse + fine - half) / half).float()


Quantizer = MuLaw | Linear | CoarseFine
