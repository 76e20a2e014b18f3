"""Resampling of mono waveforms, whole or as a stream of blocks.

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

REACH = 10  # samples of the slower rate that the filter of `resample` reaches to each side


def resample(
    waveform: Float[Tensor, "*batch length"], rate_in: int, rate_out: int
) -> Float[Tensor, "*batch resampled"]:
    """Change the sampling rate: low-pass below both Nyquist frequencies, then take new samples.

    A polyphase filter (`scipy.signal.resample_poly`). L samples become ceil(L * rate_out / rate_in).
    The filter may overshoot full scale next to a jump; what leaves [-1, 1] is clipped.
    Raises ValueError for bad audio or a rate that is not a positive whole number.

    >>> resample(torch.zeros(160), 16000, 8000).shape
    torch.Size([80])

    Chapter: 1. By blocks: `resampled`.
    """
    check_waveform(waveform)
    check_sample_rate(rate_in, "rate_in")
    check_sample_rate(rate_out, "rate_out")
    if rate_in == rate_out:
        return waveform
    new = resample_poly(waveform.detach().cpu().double().numpy(), rate_out, rate_in, axis=-1)
    return torch.from_numpy(new).clamp(-1, 1).to(waveform)


def resampled(
    pieces: Iterable[Float[np.ndarray, " _"]], rate_in: int, rate_out: int
) -> Iterator[Float[np.ndarray, " _"]]:
    """What `resample` makes of all pieces of a waveform together, as it comes: in pieces of other lengths.

    Each is filtered with the samples on both sides that the filter reaches, and cut where the clocks of both
    rates agree.

    >>> pieces = [np.zeros(100), np.zeros(60)]
    >>> sum(len(piece) for piece in resampled(pieces, 16000, 8000))
    80

    Chapter: 1. Slow twin: `resample`. Raises ValueError for a rate that is not a positive whole number.
    """
    check_sample_rate(rate_in, "rate_in")
    check_sample_rate(rate_out, "rate_out")
    if rate_in == rate_out:
        yield from pieces
        return
    period_in, period_out, margin = resampling_periods(rate_in, rate_out)
    reach, least = margin * period_in, 4 * margin * period_in  # below that, most would be filtered twice
    held, done = np.zeros(0), 0  # samples of the input; those of them that are there for the filter alone
    for piece in chain(pieces, [None]):
        held = held if piece is None else np.concatenate([held, piece])
        ready = len(held) if piece is None else (len(held) - reach) // period_in * period_in
        if ready <= done or (piece is not None and ready - done < least):
            continue
        new = resample_poly(held, period_out, period_in)
        first, end = (count * period_out // period_in for count in (done, ready))
        yield new[first : None if piece is None else end].clip(-1, 1).astype(np.float32)
        kept = max(0, ready - reach)
        held, done = held[kept:], ready - kept


def resampling_periods(rate_in: int, rate_out: int) -> tuple[int, int, int]:
    """After how many samples of either rate both clocks agree, and how many such periods the filter reaches.

    >>> resampling_periods(48_000, 16_000), resampling_periods(44_100, 16_000)
    ((3, 1, 11), (441, 160, 1))
    """
    common = math.gcd(rate_in, rate_out)
    period_in, period_out = rate_in // common, rate_out // common
    return period_in, period_out, 1 + REACH // min(period_in, period_out)
