"""Quantisers: a waveform in [-1, 1] becomes whole numbers that a softmax can predict, and back.

Each has ``levels``, ``silence`` (the code of zero), ``encode`` and ``decode``:

    MuLaw        8 bits by default, steps that grow with the amplitude (what SaShiMi and WaveNet predict)
    Linear       equal steps, any depth
    CoarseFine   all 16 bits as two bytes (what WaveRNN predicts), so codes have a last axis of two

None of them rescales a clip first. The published SaShiMi code stretches every clip to its own minimum and
maximum before quantising; that changes likelihoods, so it is left to the caller who wants to repeat it.

Chapter: 1. Formulas: the code published with the SaShiMi paper (Goel et al., 2022).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sashimi_lib.audio import check_waveform
from sashimi_lib.registry import register


def _check_levels(levels: int) -> None:
    if isinstance(levels, bool) or not isinstance(levels, int) or not 2 <= levels <= 65536 or levels % 2:
        raise ValueError(f"levels must be an even whole number from 2 to 65536, got {levels!r}")


def check_codes(codes: Shaped[Tensor, "..."], levels: int, name: str = "codes") -> None:
    """Raise ValueError unless ``codes`` are whole numbers from 0 to ``levels`` - 1, at least one of them.

    >>> check_codes(torch.tensor([0, 256]), 256)
    Traceback (most recent call last):
        ...
    ValueError: codes must lie in 0..255, got values from 0 to 256

    Chapter: 1.
    """
    if not isinstance(codes, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(codes).__name__}")
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"{name} must be whole numbers (int64), got dtype {codes.dtype}")
    if codes.ndim == 0 or codes.numel() == 0:
        raise ValueError(f"{name} must hold at least one code, got shape {tuple(codes.shape)}")
    low, high = torch.stack(torch.aminmax(codes)).tolist()  # in one reading
    if low < 0 or high >= levels:
        raise ValueError(f"{name} must lie in 0..{levels - 1}, got values from {low} to {high}")


def _to_steps(y: Tensor, levels: int) -> Tensor:
    """[-1, 1] -> 0..levels-1. The 0.01 keeps 1 inside the last step, the 0.005 keeps 0 in the middle one."""
    return torch.floor((y + 1) / 2 * (levels - 0.01) + 0.005).long()


@register
@dataclass(frozen=True)
class MuLaw:
    """Steps that grow with the amplitude: q = floor((y + 1)/2 * (levels - 0.01) + 0.005) of the compressed

    y = sign(x) log(1 + mu |x|) / log(1 + mu),  mu = levels - 1.

    Decoding takes the lower edge of the step, as the published code does, and so is lopsided: code 0 is -1,
    code 128 is 0, code 255 is +0.957. A decoded positive value lies a hair below its own step, so
    ``encode(decode(q))`` is q for q <= levels/2 and q - 1 above. Models pass codes on, not waveforms.

    >>> MuLaw().encode(torch.tensor([-1, -0.5, -0.1, -0.01, 0, 0.01, 0.1, 0.5, 1]))
    tensor([  0,  15,  52,  98, 128, 157, 203, 240, 255])

    Chapter: 1.
    """

    levels: int = 256

    def __post_init__(self) -> None:
        _check_levels(self.levels)

    @property
    def silence(self) -> int:
        """The code of zero."""
        return self.levels // 2

    def check(self, codes: Shaped[Tensor, "..."], name: str = "codes") -> None:
        """Raise ValueError, naming them, unless these are its codes."""
        check_codes(codes, self.levels, name)

    def encode(self, waveform: Float[Tensor, "*batch length"]) -> Int[Tensor, "*batch length"]:
        """Waveform in [-1, 1] -> int64 codes. Raises ValueError as `check_waveform` does."""
        check_waveform(waveform)
        x, mu = waveform.double(), self.levels - 1
        return _to_steps(torch.sign(x) * torch.log1p(mu * x.abs()) / math.log1p(mu), self.levels)

    def decode(self, codes: Int[Tensor, "*batch length"]) -> Float[Tensor, "*batch length"]:
        """Codes -> float32 waveform. Raises ValueError for codes outside 0..levels-1."""
        self.check(codes)
        y = codes.double() / self.silence - 1
        return (torch.sign(y) * torch.expm1(y.abs() * math.log(self.levels)) / (self.levels - 1)).float()


@register
@dataclass(frozen=True)
class Linear:
    """Equal steps: q = floor((x + 1)/2 * (levels - 0.01) + 0.005); decoding takes the lower edge of the step.

    >>> Linear(16).encode(torch.tensor([-1.0, 0.0, 0.5, 1.0]))
    tensor([ 0,  8, 11, 15])

    Chapter: 1.
    """

    levels: int = 256

    def __post_init__(self) -> None:
        _check_levels(self.levels)

    @property
    def silence(self) -> int:
        """The code of zero."""
        return self.levels // 2

    def check(self, codes: Shaped[Tensor, "..."], name: str = "codes") -> None:
        """Raise ValueError, naming them, unless these are its codes."""
        check_codes(codes, self.levels, name)

    def encode(self, waveform: Float[Tensor, "*batch length"]) -> Int[Tensor, "*batch length"]:
        """Waveform in [-1, 1] -> int64 codes. Raises ValueError as `check_waveform` does."""
        check_waveform(waveform)
        return _to_steps(waveform.double(), self.levels)

    def decode(self, codes: Int[Tensor, "*batch length"]) -> Float[Tensor, "*batch length"]:
        """Codes -> float32 waveform. Raises ValueError for codes outside 0..levels-1."""
        self.check(codes)
        return (codes.double() / self.silence - 1).float()


@register
@dataclass(frozen=True)
class CoarseFine:
    """All 16 bits of a sample as two bytes: round(32768 x) + 32768 = 256 coarse + fine.

    Lossless for 16-bit audio: each of the 65,536 values comes back as it was. (x = +1 itself is no 16-bit
    value; it becomes the largest one, 32767/32768.) With other ``levels`` the two parts are smaller, and the
    depth is ``levels**2`` steps.

    >>> CoarseFine().encode(torch.tensor([-1.0, 0.0, 0.5]))
    tensor([[  0,   0],
            [128,   0],
            [192,   0]])

    Chapters: 1 and 8; WaveRNN (Kalchbrenner et al., 2018), section 2.
    """

    levels: int = 256  # values that each of the two parts can take

    def __post_init__(self) -> None:
        _check_levels(self.levels)
        if self.levels > 256:
            raise ValueError(f"levels must be at most 256, for 16 bits in all, got {self.levels}")

    @property
    def silence(self) -> tuple[int, int]:
        """The coarse and the fine code of zero."""
        return (self.levels // 2, 0)

    def check(self, codes: Shaped[Tensor, "..."], name: str = "codes") -> None:
        """Raise ValueError, naming them, unless these are its codes."""
        check_codes(codes, self.levels, name)
        if codes.ndim < 2 or codes.shape[-1] != 2:
            raise ValueError(f"{name} must have shape (..., L, 2), coarse and fine, got {tuple(codes.shape)}")

    def encode(self, waveform: Float[Tensor, "*batch length"]) -> Int[Tensor, "*batch length 2"]:
        """Waveform (..., L) in [-1, 1] -> codes (..., L, 2), coarse first. ValueError for bad audio."""
        check_waveform(waveform)
        half = self.levels**2 // 2
        whole = (torch.round(waveform.double() * half) + half).clamp(0, 2 * half - 1).long()
        return torch.stack([whole // self.levels, whole % self.levels], dim=-1)

    def decode(self, codes: Int[Tensor, "*batch length 2"]) -> Float[Tensor, "*batch length"]:
        """Codes (..., L, 2) -> float32 waveform (..., L). Raises ValueError for another shape or range."""
        self.check(codes)
        coarse, fine = codes.double().unbind(-1)
        half = self.levels**2 // 2
        return ((self.levels * coarse + fine - half) / half).float()


Quantizer = MuLaw | Linear | CoarseFine
