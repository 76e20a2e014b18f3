"""How many bits a sample costs: under a trained model, and under the tables that it has to beat.

A unigram table knows how often each code occurs; a bigram table knows how often each code follows each other
one. Both are fitted by counting on training clips, starting every count at one (so that nothing is
impossible), and judged by the mean of -log2 p on held-out clips: bits per sample, as every likelihood in
this library.

Chapter: 1; chapters 6 and 7 set trained models beside them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from sashimi_lib.models.autoregression import SoundModel
from sashimi_lib.quantize import check_codes
from sashimi_lib.training.validation import AT_ONCE, losses

Clips = Tensor | Sequence[Tensor]  # codes (L,), a batch (B, L), or clips (L,) of different lengths


def _clips(codes: Clips, levels: int, name: str) -> list[Tensor]:
    """One flat int64 tensor a clip; raises ValueError for none, or for codes outside 0..levels-1."""
    if isinstance(codes, Tensor):
        check_codes(codes, levels, name)
        return list(codes.long().reshape(-1, codes.shape[-1]))
    if len(codes) == 0:
        raise ValueError(f"{name} must hold at least one clip, got none")
    for number, clip in enumerate(codes):
        check_codes(clip, levels, f"{name}[{number}]")
        if clip.ndim != 1:
            raise ValueError(f"{name}[{number}] must have shape (L,), got {tuple(clip.shape)}")
    return [clip.long() for clip in codes]


def _pairs(clips: list[Tensor], levels: int) -> Tensor:
    """Each code with the one before it, as one number levels * q_(t-1) + q_t; first comes silence."""
    before = [torch.cat([clip.new_tensor([levels // 2]), clip[:-1]]) for clip in clips]
    return torch.cat([levels * p + q for p, q in zip(before, clips, strict=True)])


def unigram_table(codes: Clips, levels: int = 256) -> Float[Tensor, " levels"]:
    """p(q): how often each code occurs in the clips, every count started at one. float64, sums to one.

    Raises ValueError for no clips, or for codes outside 0..levels-1.

    >>> unigram_table(torch.tensor([0, 0, 1]), levels=2)
    tensor([0.6000, 0.4000], dtype=torch.float64)

    Chapter: 1.
    """
    counts = 1 + torch.bincount(torch.cat(_clips(codes, levels, "codes")), minlength=levels).double()
    return counts / counts.sum()


def bigram_table(codes: Clips, levels: int = 256) -> Float[Tensor, "levels levels"]:
    """p(q_t given q_(t-1)), row q_(t-1): how often each code follows each other, every count started at one.

    float64, each row sums to one; before a clip's first code comes silence, levels/2. Raises ValueError as
    `unigram_table` does.

    >>> bigram_table(torch.tensor([1, 0, 0]), levels=2)
    tensor([[0.6667, 0.3333],
            [0.5000, 0.5000]], dtype=torch.float64)

    Chapter: 1.
    """
    pairs = _pairs(_clips(codes, levels, "codes"), levels)
    counts = 1 + torch.bincount(pairs, minlength=levels**2).double().reshape(levels, levels)
    return counts / counts.sum(dim=1, keepdim=True)


def unigram_bits(train: Clips, test: Clips, levels: int = 256) -> float:
    """Bits per sample of ``test`` under the unigram table of ``train``.

    Raises ValueError for no clips, or for codes outside 0..levels-1.

    >>> unigram_bits(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1]), levels=2)
    1.0

    Chapter: 1.
    """
    bits = -torch.log2(unigram_table(_clips(train, levels, "train"), levels))
    return float(bits[torch.cat(_clips(test, levels, "test"))].mean())


def bigram_bits(train: Clips, test: Clips, levels: int = 256) -> float:
    """Bits per sample of ``test`` under the bigram table of ``train``. Raises ValueError as `unigram_bits`.

    >>> alternating = torch.tensor([0, 1] * 500)
    >>> bigram_bits(alternating, alternating, levels=2) < 0.01
    True

    Chapter: 1.
    """
    bits = -torch.log2(bigram_table(_clips(train, levels, "train"), levels)).flatten()
    return float(bits[_pairs(_clips(test, levels, "test"), levels)].mean())


def clip_bits(
    model: SoundModel, clips: Clips, batch_size: int = 8, frame: int = AT_ONCE
) -> Float[Tensor, " clips"]:
    """Bits per sample of each clip under a model, each heard from silence, whatever its length.

    Codes of a clip are (L,), or (L, 2) under the coarse-fine quantizer. They go through as in
    `sashimi_lib.training.validation.losses`, ``batch_size`` clips at a time, in pieces of ``frame`` samples.
    float64, on the CPU. Raises ValueError for no clips, and for codes that the model does not have.

    >>> from sashimi_lib.autoregressive import AudioLM
    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.quantize import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(4, 1)))
    >>> clip_bits(model, [torch.full((70,), 128), torch.full((50,), 128)], frame=32).shape
    torch.Size([2])

    Chapter: 7.
    """
    if len(clips) == 0:
        raise ValueError("clips must hold at least one clip, got none")
    for number, clip in enumerate(clips):
        model.quantizer.check(clip, f"clips[{number}]")
    return losses(model, [clip.long() for clip in clips], batch_size, frame)


class Estimate(NamedTuple):
    """A figure, and the interval in which it would fall 95 times in 100 with other recordings."""

    mean: float
    low: float
    high: float


def mean_bits(bits: Float[Tensor, " clips"], clips: Clips, seed: int = 0) -> Estimate:
    """Bits per sample of all clips together, with a 95 % bootstrap interval over the clips.

    ``bits`` is one figure a clip, as `clip_bits` gives them; every clip weighs as much as it is long. Raises
    ValueError for fewer than two clips (nothing to draw from), or another number of figures.

    >>> mean_bits(torch.tensor([4.0, 4.0, 4.0]), torch.zeros(3, 10, dtype=torch.long)).mean
    4.0

    Chapter: 7.
    """
    lengths = np.array([len(clip) for clip in clips], dtype=np.float64)
    if len(bits) != len(lengths) or len(lengths) < 2:
        raise ValueError(f"bits must be one figure for each of at least 2 clips, got {len(bits)}")
    values = bits.double().numpy()

    def pooled(values: np.ndarray, lengths: np.ndarray, axis: int) -> np.ndarray | np.float64:
        return (values * lengths).sum(axis) / lengths.sum(axis)

    mean = float(pooled(values, lengths, 0))
    if np.ptp(values) == 0:  # no spread: every resample says the same
        return Estimate(mean, mean, mean)
    interval = stats.bootstrap(
        (values, lengths), pooled, paired=True, vectorized=True, method="percentile", rng=seed
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high))
