"""Bits per sample: the negative log-likelihood of clips under models and under baseline tables.

A unigram table has the frequency of each code, a bigram table the frequency of each code given the previous
one. Both are counted on training clips, with add-one smoothing, and evaluated by the mean of -log2 p on
held-out clips, in bits per sample, as every likelihood in this library.

Chapter: 1; chapters 6 and 7 compare trained models with them.
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

MIN_RECORDINGS = 5  # for a confidence interval
Clips = Tensor | Sequence[Tensor]  # codes (L,), a batch (B, L), or clips (L,) of different lengths


def as_clips(codes: Clips, levels: int, name: str) -> list[Tensor]:
    """Return one flat int64 tensor per clip. Raises ValueError, naming the argument, for no clips, or for
    codes outside 0..levels-1.

    >>> as_clips(torch.tensor([[0, 1], [2, 3]]), levels=4, name="train")
    [tensor([0, 1]), tensor([2, 3])]
    """
    if isinstance(codes, Tensor):
        check_codes(codes, levels, name)
        return list(codes.long().reshape(-1, codes.shape[-1]))
    if len(codes) == 0:
        raise ValueError(f"{name} must hold at least one clip, got none")
    for index, clip in enumerate(codes):
        check_codes(clip, levels, f"{name}[{index}]")
        if clip.ndim != 1:
            raise ValueError(f"{name}[{index}] must have shape (L,), got {tuple(clip.shape)}")
    return [clip.long() for clip in codes]


def _pairs(clips: list[Tensor], levels: int) -> Tensor:
    """Return the index ``levels * q_(t-1) + q_t`` of each bigram; silence precedes the first code."""
    previous = [torch.cat([clip.new_tensor([levels // 2]), clip[:-1]]) for clip in clips]
    return torch.cat([levels * p + q for p, q in zip(previous, clips, strict=True)])


def unigram_table(codes: Clips, levels: int = 256) -> Float[Tensor, " levels"]:
    """Return p(q), the frequency of each code with add-one smoothing. float64, sums to one.

    Raises ValueError for no clips, or for codes outside 0..levels-1.

    >>> unigram_table(torch.tensor([0, 0, 1]), levels=2)
    tensor([0.6000, 0.4000], dtype=torch.float64)

    Chapter: 1.
    """
    counts = 1 + torch.bincount(torch.cat(as_clips(codes, levels, "codes")), minlength=levels).double()
    return counts / counts.sum()


def bigram_table(codes: Clips, levels: int = 256) -> Float[Tensor, "levels levels"]:
    """Return p(q_t | q_(t-1)), in row q_(t-1): the frequency of each bigram with add-one smoothing.

    float64, each row sums to one. Silence, levels/2, precedes the first code of a clip. Raises ValueError as
    `unigram_table` does.

    >>> bigram_table(torch.tensor([1, 0, 0]), levels=2)
    tensor([[0.6667, 0.3333],
            [0.5000, 0.5000]], dtype=torch.float64)

    Chapter: 1.
    """
    pairs = _pairs(as_clips(codes, levels, "codes"), levels)
    counts = 1 + torch.bincount(pairs, minlength=levels**2).double().reshape(levels, levels)
    return counts / counts.sum(dim=1, keepdim=True)


def unigram_bits(train: Clips, test: Clips, levels: int = 256) -> float:
    """Return the bits per sample of ``test`` under the unigram table of ``train``.

    Raises ValueError for no clips, or for codes outside 0..levels-1.

    >>> unigram_bits(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1]), levels=2)
    1.0

    Chapter: 1.
    """
    bits = -torch.log2(unigram_table(as_clips(train, levels, "train"), levels))
    return float(bits[torch.cat(as_clips(test, levels, "test"))].mean())


def bigram_bits(train: Clips, test: Clips, levels: int = 256) -> float:
    """Return the bits per sample of ``test`` under the bigram table of ``train``.

    Raises ValueError as `unigram_bits`.

    >>> alternating = torch.tensor([0, 1] * 500)
    >>> bigram_bits(alternating, alternating, levels=2) < 0.01
    True

    Chapter: 1.
    """
    bits = -torch.log2(bigram_table(as_clips(train, levels, "train"), levels)).flatten()
    return float(bits[_pairs(as_clips(test, levels, "test"), levels)].mean())


def clip_bits(
    model: DiscreteAudioModel, clips: Clips, batch_size: int = 8, chunk_length: int = EVAL_CHUNK
) -> Float[Tensor, " clips"]:
    """Return the bits per sample of each clip under a model; clips may differ in length.

    Codes of a clip are (L,), or (L, 2) for the coarse-fine quantizer. They are evaluated as in
    `sashimi_lib.evaluation.losses.per_sequence_loss`, ``batch_size`` clips at a time, in chunks of
    ``chunk_length`` samples. float64, on the CPU. Raises ValueError for no clips, and for codes out of range.

    >>> from sashimi_lib.models.audio_lm import AudioLM
    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.audio.quantizers import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(4, 1)))
    >>> clip_bits(model, [torch.full((70,), 128), torch.full((50,), 128)], chunk_length=32).shape
    torch.Size([2])

    Chapter: 7.
    """
    if len(clips) == 0:
        raise ValueError("clips must hold at least one clip, got none")
    for index, clip in enumerate(clips):
        model.quantizer.check(clip, f"clips[{index}]")
    return per_sequence_loss(model, [clip.long() for clip in clips], batch_size, chunk_length)


class ConfidenceInterval(NamedTuple):
    """A mean over samples, such as bits per sample, with its 95 % confidence interval over recordings.

    95 of 100 such intervals, each from other recordings of the same kind, contain the mean of the whole
    population. The interval is None for fewer than `MIN_RECORDINGS` recordings.
    """

    mean: float
    interval: tuple[float, float] | None
    recordings: int


def mean_bits(
    bits: Float[Tensor, " clips"], clips: Clips, recordings: Sequence[Hashable]
) -> ConfidenceInterval:
    """Return the bits per sample of all clips, with a 95 % confidence interval over recordings.

    ``bits`` has a value per clip, as `clip_bits` returns them, and ``recordings`` identifies the recording of
    each clip (any name or number). Clips are weighted by their length. See `confidence_interval`.

    >>> clips, bits = torch.zeros(6, 10, dtype=torch.long), torch.tensor([4.0, 4.5, 5.0, 5.5, 6.0, 6.5])
    >>> mean_bits(bits, clips, recordings="aabbcc")
    ConfidenceInterval(mean=5.25, interval=None, recordings=3)

    Chapter: 7. Raises ValueError unless all three have the same length, at least one.
    """
    return confidence_interval(*bits_per_recording(bits, clips, recordings))


def bits_per_recording(
    bits: Float[Tensor, " clips"], clips: Clips, recordings: Sequence[Hashable]
) -> tuple[Float[Tensor, " recordings"], Int[Tensor, " recordings"]]:
    """Return the bits per sample of each recording, and its number of samples, in the order of first
    occurrence. float64 and int64.

    >>> clips = torch.zeros(3, 10, dtype=torch.long)
    >>> bits_per_recording(torch.tensor([3.0, 5.0, 6.0]), clips, ["a", "a", "b"])
    (tensor([4., 6.], dtype=torch.float64), tensor([20, 10]))

    Raises ValueError as `mean_bits` does.
    """
    if not len(bits) == len(clips) == len(recordings) > 0:
        raise ValueError(
            f"bits, clips and recordings must be equally many, at least one, got {len(bits)}, {len(clips)} "
            f"and {len(recordings)}"
        )
    indices = {name: index for index, name in enumerate(dict.fromkeys(recordings))}
    recording = torch.tensor([indices[name] for name in recordings])
    lengths = torch.tensor([len(clip) for clip in clips])
    samples = torch.bincount(recording, lengths.double())
    total = torch.bincount(recording, lengths * bits.double().cpu())
    return total / samples, samples.long()


def confidence_interval(
    bits: Float[Tensor, " recordings"], samples: Int[Tensor, " recordings"]
) -> ConfidenceInterval:
    """Return the bits per sample of all recordings, with a 95 % confidence interval over recordings.

    ``bits`` has a value per recording, weighted by its length in ``samples``. To compare two models on the
    same recordings, pass the difference of their bits: its interval is narrower than that of either model.

    Samples of a recording are correlated, so the variance is estimated between recordings, by the delete-one
    jackknife. With R the mean over m recordings, and R_i that without the i-th, the variance of R is
    (m - 1) / m times the sum of (R_i - R)^2; the interval follows from Student's t with m - 1 degrees of
    freedom. For few recordings of unequal lengths its coverage is better than that of a percentile bootstrap,
    whose intervals are too short by about the square root of (m - 1) / m and by the normal tails.

    >>> confidence_interval(torch.tensor([4.0, 5.0, 6.0, 5.0, 5.0]), torch.tensor([10, 10, 10, 10, 10]))
    ConfidenceInterval(mean=5.0, interval=(4.12..., 5.87...), recordings=5)

    Chapter: 7. Cochran, Sampling Techniques, 1977, section 6.17 (the jackknife of a ratio); MacKinnon,
    Nielsen and Webb, 2023 (few clusters). Raises ValueError for no recordings, or one without samples.
    """
    if not len(bits) == len(samples) > 0 or bool((samples < 1).any()):
        raise ValueError(
            f"samples must be at least 1 for each of at least one recording, got {samples.tolist()} for "
            f"{len(bits)}"
        )
    length = samples.double()
    total, m = bits.double() * length, len(bits)
    mean = float(total.sum() / length.sum())
    if m < MIN_RECORDINGS:
        return ConfidenceInterval(mean, None, m)
    leave_one_out = (total.sum() - total) / (length.sum() - length)
    standard_error = float(((m - 1) / m * (leave_one_out - mean).square().sum()).sqrt())
    half_width = standard_error * float(stats.t.ppf(0.975, m - 1))
    return ConfidenceInterval(mean, (mean - half_width, mean + half_width), m)
