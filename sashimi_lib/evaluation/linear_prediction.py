"""Linear prediction: a baseline in bits per sample that is stronger than a bigram table.

The waveform of a clip is predicted from its last p samples,

    g_t = b + sum_j a_j x_(t-j),

and code q_t has the probability of its interval of amplitudes under a logistic distribution around g_t,

    P(q) = (1 - u) [F((high_q - g_t) / s_t) - F((low_q - g_t) / s_t)] + u / levels,    F(z) = 1 / (1 + e^-z).

The intervals of all codes cover the real line, so the probabilities sum to one. The scale follows the errors
of the samples before, m_t = d m_(t-1) + (1 - d) |x_(t-1) - g_(t-1)|, as s_t = c m_t + f. Prediction and scale
depend on earlier codes alone: the bits are those of a decodable code.

All parameters are fitted on training clips: a and b by least squares (the covariance method), in which each
squared error is divided by s_t^2, since loud passages would decide alone otherwise; c, d, f and u by maximum
likelihood. x is the middle of the interval of a code. On held-out piano, tunes and digits this needs fewer
bits than decoded codes (the lower edges of intervals), a Laplace distribution, or plain least squares.

Chapter: 7; a table in place of the logistic distribution is an exercise of chapter 1.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.linalg import lstsq
from scipy.optimize import minimize
from scipy.signal import lfilter
from scipy.special import expit, logit
from torch import Tensor

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.evaluation.coarsen import MULAW, mulaw_edges
from sashimi_lib.evaluation.likelihood import Clips, as_clips

FIT_SAMPLES = 2**19  # of the training clips: enough for a few dozen parameters
SEGMENT = 8_192  # samples of the segments that these consist of
ITERATIONS = 3  # of least squares, each weighted by the scale of the one before
# Of the logarithms of gain and floor, and the logits of decay and weight of the uniform distribution.
BOUNDS = [*np.log([(1e-3, 10), (1e-6, 1)]), *logit([(1e-3, 1 - 1e-4), (1e-6, 0.5)])]


class Intervals(NamedTuple):
    """The interval of amplitudes of each code, and its middle. A 16-bit value k is all amplitudes between
    k - 1/2 and k + 1/2; the first and the last code extend to infinity."""

    low: Float[np.ndarray, " levels"]
    high: Float[np.ndarray, " levels"]
    middle: Float[np.ndarray, " levels"]

    @classmethod
    def of(cls, mulaw: MuLaw) -> "Intervals":
        """Return the intervals of a quantizer.

        >>> [32_768 * float(edge[128]) for edge in Intervals.of(MuLaw())]
        [-0.5, 5.5, 2.5]
        """
        edges = (mulaw_edges(mulaw=mulaw).double().numpy() - 0.5) / 32_768 - 1
        middle = (edges[:-1] + edges[1:]) / 2
        edges[0], edges[-1] = -np.inf, np.inf
        return cls(edges[:-1], edges[1:], middle)


@dataclass(frozen=True)
class ErrorScale:
    """The scale of the logistic distribution, s_t = ``gain`` m_t + ``floor``, where m_t is an exponential
    average, by the factor ``decay``, of the absolute prediction errors before t, and ``initial`` at first."""

    initial: float
    gain: float = 0.7
    decay: float = 0.92
    floor: float = 1e-4

    def __call__(self, error: Float[np.ndarray, " length"]) -> Float[np.ndarray, " length"]:
        """Return s_t of every sample of a clip, given all its prediction errors.

        >>> ErrorScale(initial=1.0, gain=1.0, decay=0.5, floor=0.0)(np.array([0.0, 0.0, 8.0]))
        array([1.  , 0.5 , 0.25])
        """
        average, _ = lfilter([1 - self.decay], [1, -self.decay], abs(error), zi=[self.decay * self.initial])
        return self.gain * np.append(self.initial, average[:-1]) + self.floor


@dataclass(frozen=True, eq=False)
class LinearPrediction:
    """A linear predictor, ``weights`` of x_(t-1), x_(t-2), ..., and the distribution of codes around it;
    ``uniform`` is the weight of the uniform one."""

    mulaw: MuLaw
    bias: float
    weights: Float[np.ndarray, " order"]
    scale: ErrorScale
    uniform: float

    def bits(self, codes: Int[Tensor, " length"]) -> Float[Tensor, " length"]:
        """Return -log2 P(q_t | q_<t) of every sample of a clip, in bits. Zeros precede the clip. float64.

        >>> silence = torch.full((1000,), 128)
        >>> bool(fit_linear_prediction(silence, order=2).bits(silence[:10]).max() < 0.01)
        True

        Raises ValueError for codes out of range.
        """
        self.mulaw.check(codes)
        low, high, x = (edge[codes.cpu().numpy()] for edge in Intervals.of(self.mulaw))
        predicted = self.bias + lfilter([0, *self.weights], [1], x)
        p = _logistic(low - predicted, high - predicted, self.scale(x - predicted))
        return torch.from_numpy(_bits(p, self.uniform, self.mulaw.levels))


def linear_prediction_bits(train: Clips, test: Clips, mulaw: MuLaw = MULAW, order: int = 32) -> float:
    """Return the bits per sample of ``test`` under linear prediction from ``order`` samples, fitted on
    ``train``. Codes are those of ``mulaw``.

    >>> from sashimi_lib.evaluation.likelihood import bigram_bits
    >>> train, test = MuLaw().encode(0.5 * torch.sin(0.1 * torch.arange(4000))).split(2000)
    >>> linear_prediction_bits(train, test, order=8) < bigram_bits(train, test)
    True

    Chapter: 7. Raises ValueError as `fit_linear_prediction` does.
    """
    clips = as_clips(test, mulaw.levels, "test")
    predictor = fit_linear_prediction(train, mulaw, order)
    return float(torch.cat([predictor.bits(clip) for clip in clips]).mean())


def fit_linear_prediction(train: Clips, mulaw: MuLaw = MULAW, order: int = 32) -> LinearPrediction:
    """Fit linear prediction from ``order`` samples to training clips.

    Of long training data, segments of 8,192 samples are used, evenly spread, half a million samples in all.
    The result is deterministic.

    >>> sine = MuLaw(4096).encode(torch.sin(0.5 * torch.arange(4000)))  # x_t = 2 cos(0.5) x_(t-1) - x_(t-2)
    >>> fit_linear_prediction(sine, MuLaw(4096), order=2).weights.round(1)
    array([ 1.8, -1. ])

    Chapter: 7. Makhoul, 1975, section II (least squares, the covariance method). Raises ValueError for no
    clips, for codes outside 0..levels-1, for an order below 1, and if no clip is longer than ``order``.
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    segments = _segments(as_clips(train, mulaw.levels, "train"), order)
    low, high, x = (edge[torch.cat([s[order:] for s in segments]).numpy()] for edge in Intervals.of(mulaw))
    features, lengths = _features(segments, mulaw, order), [len(s) - order for s in segments]
    weight, uniform, scale = np.ones(len(x)), 1e-3, ErrorScale(initial=0.0)
    for _ in range(ITERATIONS):
        solution = lstsq(features * weight[:, None], x * weight, lapack_driver="gelsy")[0]
        predicted = features @ solution
        errors = np.split(x - predicted, np.cumsum(lengths)[:-1])
        scale = replace(scale, initial=float(abs(x - predicted).mean()))
        scale, uniform = _fit_scale(scale, uniform, errors, low - predicted, high - predicted, mulaw.levels)
        weight = 1 / np.concatenate([scale(error) for error in errors])
    return LinearPrediction(mulaw, float(solution[0]), solution[1:], scale, uniform)


def _segments(clips: list[Tensor], order: int) -> list[Tensor]:
    """Return evenly spread segments of clips, `FIT_SAMPLES` samples in all, each longer than ``order``."""
    segments = [segment for clip in clips for segment in clip.cpu().split(SEGMENT) if len(segment) > order]
    if not segments:
        raise ValueError(
            f"train must have a clip of more than {order} samples, got at most {max(map(len, clips))}"
        )
    return segments[:: math.ceil(sum(map(len, segments)) / FIT_SAMPLES)]


def _features(segments: list[Tensor], mulaw: MuLaw, order: int) -> Float[np.ndarray, "length features"]:
    """Return 1, x_(t-1), ..., x_(t-order) of all samples that follow ``order`` others in their segment."""
    x = torch.from_numpy(Intervals.of(mulaw).middle)
    before = torch.cat([x[segment].unfold(0, order, 1)[:-1] for segment in segments]).flip(1)
    return torch.cat([torch.ones(len(before), 1), before], dim=1).numpy()


def _logistic(
    low: Float[np.ndarray, " length"], high: Float[np.ndarray, " length"], scale: Float[np.ndarray, " length"]
) -> Float[np.ndarray, " length"]:
    """Return the probability of an interval under a logistic distribution around zero. Intervals above zero
    are mirrored: differences of small numbers are accurate."""
    above = low + high > 0
    low, high = np.where(above, -high, low), np.where(above, -low, high)
    return expit(high / scale) - expit(low / scale)


def _bits(p: Float[np.ndarray, " length"], uniform: float, levels: int) -> Float[np.ndarray, " length"]:
    """Return -log2 of a mixture of probabilities with uniform ones."""
    return -np.log2((1 - uniform) * p + uniform / levels)


def _fit_scale(
    scale: ErrorScale,
    uniform: float,
    errors: list[np.ndarray],
    low: Float[np.ndarray, " length"],
    high: Float[np.ndarray, " length"],
    levels: int,
) -> tuple[ErrorScale, float]:
    """Return the scale and the weight of the uniform distribution of fewest bits, by the Nelder-Mead method
    from the given ones on. ``low`` and ``high`` are relative to the prediction."""

    def unpacked(theta: Float[np.ndarray, " 4"]) -> tuple[ErrorScale, float]:
        decay, u = expit(theta[2:])
        gain, floor = np.exp(theta[:2])
        return ErrorScale(scale.initial, float(gain), float(decay), float(floor)), float(u)

    def mean_bits(theta: Float[np.ndarray, " 4"]) -> float:
        candidate, u = unpacked(theta)
        s = np.concatenate([candidate(error) for error in errors])
        return float(_bits(_logistic(low, high, s), u, levels).mean())

    start = np.append(np.log([scale.gain, scale.floor]), logit([scale.decay, uniform]))
    start = np.clip(start, *np.transpose(BOUNDS))  # rounding may leave a bound
    options = {"xatol": 0.01, "fatol": 1e-4, "maxfev": 400}
    return unpacked(minimize(mean_bits, start, method="Nelder-Mead", bounds=BOUNDS, options=options).x)
