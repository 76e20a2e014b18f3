"""Resample mono waveforms, either as one tensor or as a stream of blocks.

Chapter: 1.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float
from scipy.signal import resample_poly
from torch import Tensor

from sashimi_lib.audio.waveform import check_sample_rate, check_waveform

FILTER_HALF_LENGTH = 10  # of the filter of `resample`, in samples of the lower rate


def resample(
    waveform: Float[Tensor, "*batch length"], rate_in: int, rate_out: int
) -> Float[Tensor, "*batch resampled"]:
    """Change the sample rate: low-pass below both Nyquist frequencies, then resample.

    A polyphase filter (`scipy.signal.resample_poly`). L samples become ceil(L * rate_out / rate_in).
    The filter may overshoot full scale near a discontinuity; values outside [-1, 1] are clipped.
    Raises ValueError for invalid audio or a rate that is not a positive integer.

    >>> resample(torch.zeros(160), 16000, 8000).shape
    torch.Size([80])

    Chapter: 1. Block by block: `resample_stream`.
    """
    check_waveform(waveform)
    check_sample_rate(rate_in, "rate_in")
    check_sample_rate(rate_out, "rate_out")
    if rate_in == rate_out:
        return waveform
    new = resample_poly(waveform.detach().cpu().double().numpy(), rate_out, rate_in, axis=-1)
    return torch.from_numpy(new).clamp(-1, 1).to(waveform)


def resample_stream(
    blocks: Iterable[Float[np.ndarray, " _"]], rate_in: int, rate_out: int
) -> Iterator[Float[np.ndarray, " _"]]:
    """Resample a waveform that arrives in blocks; the concatenated output equals `resample` of the whole.

    Each block is filtered with the margin on both sides that the filter spans, and cut where a sample of the
    input and one of the output coincide. Output blocks have other lengths than input blocks.

    >>> blocks = [np.zeros(100), np.zeros(60)]
    >>> sum(len(block) for block in resample_stream(blocks, 16000, 8000))
    80

    Chapter: 1. Slow twin: `resample`. Raises ValueError for a rate that is not a positive integer.
    """
    check_sample_rate(rate_in, "rate_in")
    check_sample_rate(rate_out, "rate_out")
    if rate_in == rate_out:
        yield from blocks
        return
    period_in, period_out, margin_periods = resampling_periods(rate_in, rate_out)
    margin = margin_periods * period_in
    min_new = 4 * margin  # with fewer new samples, most would be filtered twice
    buffer, context = np.zeros(0), 0  # input samples; the first ``context`` of them were output already
    for block in chain(blocks, [None]):
        buffer = buffer if block is None else np.concatenate([buffer, block])
        ready = len(buffer) if block is None else (len(buffer) - margin) // period_in * period_in
        if ready <= context or (block is not None and ready - context < min_new):
            continue
        new = resample_poly(buffer, period_out, period_in)
        begin, end = (count * period_out // period_in for count in (context, ready))
        yield new[begin : None if block is None else end].clip(-1, 1).astype(np.float32)
        dropped = max(0, ready - margin)
        buffer, context = buffer[dropped:], ready - dropped


def resampling_periods(rate_in: int, rate_out: int) -> tuple[int, int, int]:
    """Return the shortest common period of two rates, in samples of each, and the filter's half-length.

    The half-length is in such periods, rounded up.

    >>> resampling_periods(48_000, 16_000), resampling_periods(44_100, 16_000)
    ((3, 1, 11), (441, 160, 1))
    """
    common = math.gcd(rate_in, rate_out)
    period_in, period_out = rate_in // common, rate_out // common
    return period_in, period_out, 1 + FILTER_HALF_LENGTH // min(period_in, period_out)
