"""Likelihoods of 8-bit codes under a 16-bit model, to compare it with 8-bit models (chapter 8).

Bits per 16-bit sample and bits per 8-bit sample are not comparable, and neither can be computed from the
other. But a distribution over 65,536 values gives the probability of any interval of values,

    P(low <= v_t < high | v_<t).

The coarse byte of a sample is an interval of 256 values; its mu-law code is an interval too, of 5 values
around silence and of 1,388 at full scale. Both are exact: the probabilities of all coarse bytes sum to one,
as do those of all mu-law codes.

The predicted quantity is then the same, the context is not: a 16-bit model is conditioned on 16-bit samples,
an 8-bit model on mu-law codes. The additional information lowers the bits of the 16-bit model.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.autoregressive import Autoregressive, shift_right
from sashimi_lib.models.heads import DualSoftmax, Head, JointSoftmax, Logistics
from sashimi_lib.models.wavernn import WaveRNN
from sashimi_lib.ssm.precision import tf32_allowed

MULAW = MuLaw()
LOGIT_CHUNK = 256  # samples whose 65,536 logits are in memory at a time: 64 MiB


def coarse_bits(model: Autoregressive, codes: Int[Tensor, "batch length 2"]) -> Float[Tensor, "batch length"]:
    """Return ``log2 P(c_t | v_<t)`` of the coarse byte of every sample, in bits (never positive).

    ``codes`` are those of `sashimi_lib.audio.quantizers.CoarseFine`; the context starts with silence, and
    includes fine bytes.

    >>> from sashimi_lib.models import WaveRNNConfig
    >>> coarse_bits(WaveRNN(WaveRNNConfig(8)), CoarseFine().encode(torch.zeros(1, 50))).shape
    torch.Size([1, 50])

    Chapter: 8. Raises ValueError as `interval_bits` does.
    """
    levels = _levels(model, codes)
    return interval_bits(model, codes, levels * codes[..., 0], levels * (codes[..., 0] + 1))


def mulaw_bits(
    model: Autoregressive, codes: Int[Tensor, "batch length 2"], mulaw: MuLaw = MULAW
) -> Float[Tensor, "batch length"]:
    """Return ``log2 P(q_t | v_<t)`` of the mu-law code of every sample, in bits (never positive).

    ``codes`` are those of `sashimi_lib.audio.quantizers.CoarseFine`; the context starts with silence, and is
    in 16 bits.

    >>> from sashimi_lib.models import WaveRNNConfig
    >>> model, codes = WaveRNN(WaveRNNConfig(8)), CoarseFine().encode(torch.zeros(1, 50))
    >>> bool((mulaw_bits(model, codes) > model.log_likelihood(codes)).all())  # coarser, so more probable
    True

    Chapter: 8. Raises ValueError as `interval_bits` does.
    """
    levels = _levels(model, codes)
    edges = mulaw_edges(levels, mulaw).to(codes.device)
    value = levels * codes[..., 0] + codes[..., 1]
    q = torch.searchsorted(edges, value, right=True) - 1
    return interval_bits(model, codes, edges[q], edges[q + 1])


def mulaw_edges(levels: int = 256, mulaw: MuLaw = MULAW) -> Int[Tensor, " edges"]:
    """Return the edges of the mu-law intervals: code q is values ``edges[q]`` to ``edges[q + 1] - 1``.

    Values are 0 to ``levels**2 - 1``, as in `sashimi_lib.audio.quantizers.CoarseFine`. There is one edge more
    than there are codes.

    >>> mulaw_edges()[[0, 1, 128, 129, 256]]
    tensor([    0,  1388, 32768, 32774, 65536])

    Chapter: 8.
    """
    values = torch.arange(levels**2)
    waveform = CoarseFine(levels).decode(torch.stack([values // levels, values % levels], dim=-1))
    return torch.searchsorted(mulaw.encode(waveform), torch.arange(mulaw.levels + 1))


@torch.no_grad()
@tf32_allowed(False)
def interval_bits(
    model: Autoregressive,
    codes: Int[Tensor, "batch length 2"],
    low: Int[Tensor, "batch length"],
    high: Int[Tensor, "batch length"],
) -> Float[Tensor, "batch length"]:
    """Return ``log2 P(low <= v_t < high | v_<t)`` of the value ``v = levels c + f`` of every sample.

    ``codes`` are the context, which starts with silence; the interval need not contain the sample itself. Its
    probability is a sum: of coarse bytes, by the coarse softmax, and of parts of the first and last coarse
    byte, by a fine softmax each.

    >>> from sashimi_lib.models import WaveRNNConfig
    >>> model, codes = WaveRNN(WaveRNNConfig(8)), CoarseFine().encode(torch.zeros(1, 50))
    >>> value = 256 * codes[..., 0] + codes[..., 1]
    >>> torch.allclose(interval_bits(model, codes, value, value + 1), model.log_likelihood(codes))
    True

    Chapter: 8. Raises ValueError for a model without a distribution over 16-bit values, for codes out of
    range, and unless ``0 <= low < high <= levels**2`` everywhere.
    """
    levels = _levels(model, codes)
    if bool((low < 0).any()) or bool((high <= low).any()) or bool((high > levels**2).any()):
        raise ValueError(
            f"low and high must be intervals within 0..{levels**2}, got low from {int(low.min())} and high "
            f"to {int(high.max())}, high - low from {int((high - low).min())}"
        )
    silence, state = model.initial_cache(len(codes))
    before = shift_right(codes, silence)
    match model:
        case WaveRNN():
            h, _ = model(before, codes[..., 0], state)
            previous_h = torch.cat([state[:, None], h[:, :-1]], dim=1)

            def fine(coarse: Tensor) -> Tensor:
                # One step from the state before every sample, with ``coarse`` in place of its coarse byte.
                h, _ = model(before.reshape(-1, 1, 2), coarse.reshape(-1, 1), previous_h.flatten(0, 1))
                return model.fine_logits(h).view(*coarse.shape, -1)

            return _two_softmaxes(model.coarse_logits(h), fine, low, high)
        case AudioLM():
            return _of_head(model.head, model.features(before)[0], low, high)
    raise ValueError(f"model must be an AudioLM or a WaveRNN, got {type(model).__name__}")


def _levels(model: Autoregressive, codes: Tensor) -> int:
    """Return the number of values of a byte. Raises ValueError for a model without coarse and fine bytes, or
    codes out of range."""
    if not isinstance(model.quantizer, CoarseFine):
        raise ValueError(f"model must predict coarse and fine codes, got one of {model.quantizer}")
    model.quantizer.check(codes)
    return model.quantizer.levels


def _of_head(
    head: Head,
    y: Float[Tensor, "batch length H"],
    low: Int[Tensor, "batch length"],
    high: Int[Tensor, "batch length"],
) -> Float[Tensor, "batch length"]:
    """Return `interval_bits` given the input of the head at every sample."""
    match head:
        case DualSoftmax():
            return _two_softmaxes(head(y), lambda coarse: head.fine(y, coarse), low, high)
        case JointSoftmax():  # in chunks: the logits of a whole clip would take gigabytes
            chunks = zip(*(x.split(LOGIT_CHUNK, dim=1) for x in (y, low, high)), strict=True)
            return torch.cat([_one_softmax(head.linear(y), *edges) for y, *edges in chunks], dim=1)
        case Logistics():
            return head.interval(y, low[..., None], high[..., None])[..., 0]
    raise ValueError(f"model must have a head of this library, got {type(head).__name__}")


def _two_softmaxes(
    coarse_logits: Float[Tensor, "batch length levels"],
    fine: Callable[[Tensor], Tensor],
    low: Int[Tensor, "batch length"],
    high: Int[Tensor, "batch length"],
) -> Float[Tensor, "batch length"]:
    """Return `interval_bits` where ``P(v) = P(c) P(f | c)``, given ``fine``: coarse codes to fine logits."""
    coarse, levels = _log_softmax(coarse_logits), coarse_logits.shape[-1]
    first, last = low // levels, (high - 1) // levels  # the coarse codes at the ends
    start, end = low - levels * first, high - levels * last
    single = first == last
    parts = [
        _at(coarse, first) + _within(_log_softmax(fine(first)), start, torch.where(single, end, levels)),
        _within(coarse, first + 1, last),
        _at(coarse, last) + _within(_log_softmax(fine(last)), torch.where(single, end, 0), end),
    ]
    return torch.stack(parts).logsumexp(0) / math.log(2)


def _one_softmax(logits: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return `interval_bits` of one softmax over all values."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return (_within(logits, low, high) - logits.logsumexp(-1)) / math.log(2)


def _log_softmax(logits: Tensor) -> Tensor:
    """Return log probabilities in at least float32."""
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)


def _at(log_p: Tensor, code: Tensor) -> Tensor:
    return log_p.gather(-1, code[..., None])[..., 0]


def _within(log_p: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the logarithm of the sum of probabilities ``low`` to ``high - 1``, an interval that may be
    empty."""
    width = max(1, int((high - low).max()))  # gather no more than the widest interval needs
    k = low[..., None] + torch.arange(width, device=log_p.device)
    p = log_p.gather(-1, k.clamp(max=log_p.shape[-1] - 1))
    return p.where(k < high[..., None], -torch.inf).logsumexp(-1)
