"""How many bits a sample costs: under a trained model, and under the tables that it has to beat.

A unigram table knows how often each code occurs; a bigram table knows how often each code follows each other
one. Both are fitted by counting on training clips, starting every count at one (so that nothing is
impossible), and judged by the mean of -log2 p on held-out clips: bits per sample, as every likelihood in
this library.

Chapter: 1; chapters 6 and 7 set trained models beside them.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from sashimi_lib.audio.quantizers import check_codes
from sashimi_lib.evaluation.losses import EVAL_CHUNK, per_sequence_loss
from sashimi_lib.models.autoregressive import DiscreteAudioModel

FEWEST = 5  # recordings: of fewer no interval is given
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
    model: DiscreteAudioModel, clips: Clips, batch_size: int = 8, frame: int = EVAL_CHUNK
) -> Float[Tensor, " clips"]:
    """Bits per sample of each clip under a model, each from silence, whatever its length.

    Codes of a clip are (L,), or (L, 2) under the coarse-fine quantizer. They go through as in
    `sashimi_lib.evaluation.losses.per_sequence_loss`, ``batch_size`` clips at a time, in chunks of ``frame``
    samples. float64, on the CPU. Raises ValueError for no clips, and for codes that the model does not have.

    >>> from sashimi_lib.models.audio_lm import AudioLM
    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.audio.quantizers import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(4, 1)))
    >>> clip_bits(model, [torch.full((70,), 128), torch.full((50,), 128)], frame=32).shape
    torch.Size([2])

    Chapter: 7.
    """
    if len(clips) == 0:
        raise ValueError("clips must hold at least one clip, got none")
    for number, clip in enumerate(clips):
        model.quantizer.check(clip, f"clips[{number}]")
    return per_sequence_loss(model, [clip.long() for clip in clips], batch_size, frame)


class ConfidenceInterval(NamedTuple):
    """Bits per sample of so many recordings, and the 95 % confidence interval over recordings: 95 of 100 such
    intervals, each of other recordings of the same kind, hold the figure of all that there could be. None for
    fewer than `FEWEST`, whose spread says too little."""

    mean: float
    interval: tuple[float, float] | None
    recordings: int


def mean_bits(
    bits: Float[Tensor, " clips"], clips: Clips, recordings: Sequence[Hashable]
) -> ConfidenceInterval:
    """Bits per sample of all clips together, with a 95 % confidence interval over recordings.

    ``bits`` is one figure a clip, as `clip_bits` gives them, and ``recordings`` says which recording each
    clip is from (any name or number). Every clip weighs as much as it is long. See `pooled_bits`.

    >>> clips, bits = torch.zeros(6, 10, dtype=torch.long), torch.tensor([4.0, 4.5, 5.0, 5.5, 6.0, 6.5])
    >>> mean_bits(bits, clips, recordings="aabbcc")
    ConfidenceInterval(mean=5.25, interval=None, recordings=3)

    Chapter: 7. Raises ValueError unless there are as many of all three, and at least one.
    """
    return pooled_bits(*by_recording(bits, clips, recordings))


def by_recording(
    bits: Float[Tensor, " clips"], clips: Clips, recordings: Sequence[Hashable]
) -> tuple[Float[Tensor, " recordings"], Int[Tensor, " recordings"]]:
    """Bits per sample of each recording, and how many samples were judged of it, in the order in which the
    recordings first come. float64 and int64.

    >>> by_recording(torch.tensor([3.0, 5.0, 6.0]), torch.zeros(3, 10, dtype=torch.long), ["a", "a", "b"])
    (tensor([4., 6.], dtype=torch.float64), tensor([20, 10]))

    Raises ValueError as `mean_bits` does.
    """
    if not len(bits) == len(clips) == len(recordings) > 0:
        raise ValueError(
            f"bits, clips and recordings must be equally many, at least one, got {len(bits)}, {len(clips)} "
            f"and {len(recordings)}"
        )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(recordings))}
    which = torch.tensor([numbers[name] for name in recordings])
    lengths = torch.tensor([len(clip) for clip in clips])
    samples = torch.bincount(which, lengths.double())
    total = torch.bincount(which, lengths * bits.double().cpu())
    return total / samples, samples.long()


def pooled_bits(
    bits: Float[Tensor, " recordings"], samples: Int[Tensor, " recordings"]
) -> ConfidenceInterval:
    """Bits per sample of all recordings together, with a 95 % confidence interval over recordings.

    ``bits`` is one figure a recording, ``samples`` how long each is; or ``bits`` is by how much two models
    differ on each of the same recordings, which tells more about the difference than their two intervals.

    Samples of a recording are alike, so the spread is that between recordings, however many pieces they were
    judged in. It is the delete-one jackknife's: with R the pooled figure of m recordings, and R_i that of all
    but the i-th, the variance of R is (m - 1) / m times the sum of (R_i - R)^2, and R lies within so many
    standard errors as Student's t with m - 1 degrees of freedom says. For few recordings of unequal lengths
    this covers the truth more often than a percentile bootstrap, whose intervals are too short by about the
    square root of (m - 1) / m and by the normal tails.

    >>> pooled_bits(torch.tensor([4.0, 5.0, 6.0, 5.0, 5.0]), torch.tensor([10, 10, 10, 10, 10]))
    ConfidenceInterval(mean=5.0, interval=(4.12..., 5.87...), recordings=5)

    Chapter: 7. Cochran, Sampling Techniques, 1977, section 6.17 (the jackknife of a ratio); MacKinnon,
    Nielsen and Webb, 2023 (few clusters). Raises ValueError for no recording, or one without samples.
    """
    if not len(bits) == len(samples) > 0 or bool((samples < 1).any()):
        raise ValueError(
            f"samples must be at least 1 for each of at least one recording, got {samples.tolist()} for "
            f"{len(bits)}"
        )
    length = samples.double()
    total, m = bits.double() * length, len(bits)
    mean = float(total.sum() / length.sum())
    if m < FEWEST:
        return ConfidenceInterval(mean, None, m)
    without = (total.sum() - total) / (length.sum() - length)
    error = float(((m - 1) / m * (without - mean).square().sum()).sqrt())
    half = error * float(stats.t.ppf(0.975, m - 1))
    return ConfidenceInterval(mean, (mean - half, mean + half), m)
