"""How 16-bit figures relate to 8-bit ones: a 16-bit model asked coarser questions (chapter 8).

Bits per 16-bit sample and bits per 8-bit sample answer different questions, and neither can be computed from
the other. But a distribution over 65,536 values says what the chance of any range of them is,

    P(low <= v_t < high | v_<t),

and with that a 16-bit model can be asked what an 8-bit model is asked. The coarse byte of a sample is a range
of 256 values; its mu-law code is a range too, of 5 values around silence and of 1,388 at full scale. Both are
exact: the chances of all coarse bytes sum to one, and so do those of all mu-law codes.

What is predicted is then the same, what is known is not: the 16-bit model has heard the past in 16 bits,
where an 8-bit model has heard its mu-law codes. It knows more, and its figure is the lower for that too.
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
AT_ONCE = 256  # samples of which all 65,536 logits are held, where a head has them: 64 MiB


def coarse_bits(model: Autoregressive, codes: Int[Tensor, "batch length 2"]) -> Float[Tensor, "batch length"]:
    """``log2 P(c_t | cache)`` of the coarse byte of every sample, in bits (so never positive).

    ``codes`` are those of `sashimi_lib.audio.quantizers.CoarseFine`, heard from silence. The past is all of it, fine
    bytes too.

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
    """``log2 P(q_t | cache)`` of the mu-law code that every sample falls in, in bits (so never positive).

    ``codes`` are those of `sashimi_lib.audio.quantizers.CoarseFine`, heard from silence; the past is that of 16 bits.

    >>> from sashimi_lib.models import WaveRNNConfig
    >>> model, codes = WaveRNN(WaveRNNConfig(8)), CoarseFine().encode(torch.zeros(1, 50))
    >>> bool((mulaw_bits(model, codes) > model.log_likelihood(codes)).all())  # the easier question
    True

    Chapter: 8. Raises ValueError as `interval_bits` does.
    """
    levels = _levels(model, codes)
    edges = mulaw_edges(levels, mulaw).to(codes.device)
    value = levels * codes[..., 0] + codes[..., 1]
    q = torch.searchsorted(edges, value, right=True) - 1
    return interval_bits(model, codes, edges[q], edges[q + 1])


def mulaw_edges(levels: int = 256, mulaw: MuLaw = MULAW) -> Int[Tensor, " edges"]:
    """Where the mu-law codes begin and end: code q is values ``edges[q]`` to ``edges[q + 1] - 1``.

    Values are 0 to ``levels**2 - 1``, as of `sashimi_lib.audio.quantizers.CoarseFine`; there is one edge more than
    there are codes.

    >>> mulaw_edges()[[0, 1, 128, 129, 256]]
    tensor([    0,  1388, 32768, 32774, 65536])

    Chapter: 8.
    """
    every = torch.arange(levels**2)
    waveform = CoarseFine(levels).decode(torch.stack([every // levels, every % levels], dim=-1))
    return torch.searchsorted(mulaw.encode(waveform), torch.arange(mulaw.levels + 1))


@torch.no_grad()
@tf32_allowed(False)
def interval_bits(
    model: Autoregressive,
    codes: Int[Tensor, "batch length 2"],
    low: Int[Tensor, "batch length"],
    high: Int[Tensor, "batch length"],
) -> Float[Tensor, "batch length"]:
    """``log2 P(low <= v_t < high | cache)`` of the value ``v = levels c + f`` of every sample.

    ``codes`` are the past, from silence on; what is asked of each sample need not hold it. It is a sum of
    probabilities: of whole coarse bytes by the coarse softmax, and of parts of the two at the ends by a fine
    softmax each.

    >>> from sashimi_lib.models import WaveRNNConfig
    >>> model, codes = WaveRNN(WaveRNNConfig(8)), CoarseFine().encode(torch.zeros(1, 50))
    >>> value = 256 * codes[..., 0] + codes[..., 1]
    >>> torch.allclose(interval_bits(model, codes, value, value + 1), model.log_likelihood(codes))
    True

    Chapter: 8. Raises ValueError for a model that has no distribution over 16-bit values, for codes that are
    none, and unless ``0 <= low < high <= levels**2`` everywhere.
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
            earlier = torch.cat([state[:, None], h[:, :-1]], dim=1)

            def fine(coarse: Tensor) -> Tensor:
                # One step from every true state, with another coarse byte in place of the true one.
                h, _ = model(before.reshape(-1, 1, 2), coarse.reshape(-1, 1), earlier.flatten(0, 1))
                return model.fine_logits(h).view(*coarse.shape, -1)

            return _two_softmaxes(model.coarse_logits(h), fine, low, high)
        case AudioLM():
            return _of_head(model.head, model.features(before)[0], low, high)
    raise ValueError(f"model must be an AudioLM or a WaveRNN, got {type(model).__name__}")


def _levels(model: Autoregressive, codes: Tensor) -> int:
    """How many values a byte has. Raises ValueError where there are no bytes, or codes are none."""
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
    """`interval_bits` given the features of every sample."""
    match head:
        case DualSoftmax():
            return _two_softmaxes(head(y), lambda coarse: head.fine(y, coarse), low, high)
        case JointSoftmax():  # in parts: the logits of a whole clip would take gigabytes
            parts = zip(*(part.split(AT_ONCE, dim=1) for part in (y, low, high)), strict=True)
            return torch.cat([_one_softmax(head.linear(y), *edges) for y, *edges in parts], dim=1)
        case Logistics():
            return head.interval(y, low[..., None], high[..., None])[..., 0]
    raise ValueError(f"model must have one of this library's heads, got {type(head).__name__}")


def _two_softmaxes(
    coarse_logits: Float[Tensor, "batch length levels"],
    fine: Callable[[Tensor], Tensor],
    low: Int[Tensor, "batch length"],
    high: Int[Tensor, "batch length"],
) -> Float[Tensor, "batch length"]:
    """`interval_bits` where ``P(v) = P(c) P(f | c)``, given ``fine``: coarse codes -> fine logits."""
    coarse, levels = _log_softmax(coarse_logits), coarse_logits.shape[-1]
    first, last = low // levels, (high - 1) // levels  # the coarse codes at the ends
    start, end = low - levels * first, high - levels * last
    alone = first == last
    parts = [
        _at(coarse, first) + _within(_log_softmax(fine(first)), start, torch.where(alone, end, levels)),
        _within(coarse, first + 1, last),
        _at(coarse, last) + _within(_log_softmax(fine(last)), torch.where(alone, end, 0), end),
    ]
    return torch.stack(parts).logsumexp(0) / math.log(2)


def _one_softmax(logits: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The same for one softmax over all values."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return (_within(logits, low, high) - logits.logsumexp(-1)) / math.log(2)


def _log_softmax(logits: Tensor) -> Tensor:
    """In float32 or better."""
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)


def _at(log_p: Tensor, code: Tensor) -> Tensor:
    return log_p.gather(-1, code[..., None])[..., 0]


def _within(log_p: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The logarithm of the sum of the probabilities from ``low`` to ``high`` - 1, of which there may be
    none."""
    width = max(1, int((high - low).max()))  # no more is looked at than the widest needs
    k = low[..., None] + torch.arange(width, device=log_p.device)
    p = log_p.gather(-1, k.clamp(max=log_p.shape[-1] - 1))
    return p.where(k < high[..., None], -torch.inf).logsumexp(-1)
