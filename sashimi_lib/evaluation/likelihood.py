"""The tables that a neural model has to beat: how many bits a sample costs when one only counts.

A unigram table knows how often each code occurs; a bigram table knows how often each code follows each other
one. Both are fitted by counting on training clips, starting every count at one (so that nothing is
impossible), and judged by the mean of -log2 p on held-out clips: bits per sample, as every likelihood in
this library.

Chapter: 1; chapter 6 sets a trained SaShiMi beside them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.quantize import check_codes

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
