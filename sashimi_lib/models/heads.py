"""Heads: the features of a backbone become a distribution of the next sample (chapters 6 to 8).

    Softmax       a logit for each of a few levels: 8 bits, as SaShiMi and WaveNet were published
    DualSoftmax   16 bits as P(coarse) P(fine | coarse), two softmaxes over 256: WaveRNN's
    JointSoftmax  16 bits as one softmax over 65,536: what the dual softmax saves us from
    Logistics     16 bits as a mixture of logistic bells, cut into 65,536 steps: ten bells, thirty numbers

The last three are heads for the codes of `CoarseFine`, of 256 levels each unless said: with other ``levels``
there are ``levels**2`` values of a sample.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sashimi_lib.models.autoregressive import log2_prob
from sashimi_lib.models.sampling import TokenSampler


class Head(nn.Module, ABC):
    """A distribution of codes, given features: ``codes`` of them a sample, one or two, each one of ``levels``
    values."""

    codes: int = 2
    levels: int

    @abstractmethod
    def log_probability(
        self, y: Float[Tensor, "batch length H"], codes: Int[Tensor, "batch length *two"]
    ) -> Float[Tensor, "batch length"]:
        """``log2 P(code | y)`` of each code, in bits."""

    @abstractmethod
    def sample(self, y: Float[Tensor, "batch H"], sampler: TokenSampler) -> Int[Tensor, "batch *two"]:
        """A code for each row of features, as ``sampler`` picks it from its logits."""


class Softmax(nn.Linear, Head):
    """One logit a level: ``softmax(W y + b)``.

    >>> head = Softmax(8, 256)
    >>> head.log_probability(torch.randn(1, 5, 8), torch.full((1, 5), 128)).shape
    torch.Size([1, 5])

    Chapter: 6. SaShiMi paper, section 2.
    """

    codes = 1

    def __init__(self, d_model: int, levels: int = 256) -> None:
        super().__init__(d_model, levels)
        self.levels = levels

    def log_probability(
        self, y: Float[Tensor, "batch length H"], codes: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length"]:
        """``log2 P(code | y)`` of each code, in bits."""
        return log2_prob(self(y), codes)

    def sample(self, y: Float[Tensor, "batch H"], sampler: TokenSampler) -> Int[Tensor, " batch"]:
        """A code for each row of features, as ``sampler`` picks it from its logits."""
        return sampler(self(y))


class DualSoftmax(Head):
    """``P(c | y) = softmax(O_2 relu(O_1 y))``, then ``P(f | y, c) = softmax(O_4 relu(O_3 y + E_c))``.

    WaveRNN's output layer behind any backbone. There the fine half of the state hears c through the masked
    part of the gates; here a learned vector ``E_c`` for each coarse code is what lets f hear c.

    >>> head = DualSoftmax(8)
    >>> head.log_probability(torch.randn(1, 5, 8), torch.zeros(1, 5, 2, dtype=torch.long)).shape
    torch.Size([1, 5])

    Chapter: 8. WaveRNN paper, section 2.
    """

    def __init__(self, d_model: int, levels: int = 256, d_hidden: int = 128) -> None:
        super().__init__()
        self.levels = levels
        self.O1, self.O2 = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, levels)
        self.O3, self.O4 = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, levels)
        self.E = nn.Embedding(levels, d_hidden)

    def forward(self, y: Float[Tensor, "*batch H"]) -> Float[Tensor, "*batch levels"]:
        """Logits of the coarse code."""
        return self.O2(F.relu(self.O1(y)))

    def fine(
        self, y: Float[Tensor, "*batch H"], coarse: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch levels"]:
        """Logits of the fine code, once the coarse one is known."""
        return self.O4(F.relu(self.O3(y) + self.E(coarse)))

    def log_probability(
        self, y: Float[Tensor, "batch length H"], codes: Int[Tensor, "batch length two"]
    ) -> Float[Tensor, "batch length"]:
        """``log2 P(c | y) + log2 P(f | y, c)`` of each sample, in bits."""
        coarse, fine = codes.unbind(-1)
        return log2_prob(self(y), coarse) + log2_prob(self.fine(y, coarse), fine)

    def sample(self, y: Float[Tensor, "batch H"], sampler: TokenSampler) -> Int[Tensor, "batch two"]:
        """First the coarse code, then the fine one."""
        coarse = sampler(self(y))
        return torch.stack([coarse, sampler(self.fine(y, coarse))], dim=-1)


class JointSoftmax(Head):
    """One softmax over all 65,536 values of a sample.

    >>> head = JointSoftmax(8)
    >>> head.log_probability(torch.randn(1, 5, 8), torch.zeros(1, 5, 2, dtype=torch.long)).shape
    torch.Size([1, 5])

    Chapter: 8.
    """

    def __init__(self, d_model: int, levels: int = 256) -> None:
        super().__init__()
        self.levels, self.linear = levels, nn.Linear(d_model, levels**2)

    def log_probability(
        self, y: Float[Tensor, "batch length H"], codes: Int[Tensor, "batch length two"]
    ) -> Float[Tensor, "batch length"]:
        """``log2 P(c, f | y)`` of each sample, in bits."""
        coarse, fine = codes.unbind(-1)
        return log2_prob(self.linear(y), self.levels * coarse + fine)

    def sample(self, y: Float[Tensor, "batch H"], sampler: TokenSampler) -> Int[Tensor, "batch two"]:
        """Both codes at once."""
        whole = sampler(self.linear(y))
        return torch.stack([whole // self.levels, whole % self.levels], dim=-1)


class Logistics(Head):
    """A mixture of ``n`` logistic distributions over the amplitude, discretised to ``levels**2`` steps: 16
    bits with 256 levels.

    Sample s in [-1, 1) has the probability ``sum_k w_k (F((s + d - m_k)/r_k) - F((s - d - m_k)/r_k))``, with
    F the logistic function and d half a step; the outermost steps also get all that lies beyond.

    >>> head = Logistics(8)
    >>> head.log_probability(torch.randn(1, 5, 8), torch.zeros(1, 5, 2, dtype=torch.long)).shape
    torch.Size([1, 5])

    Chapter: 8. PixelCNN++ (Salimans et al., 2017), section 2.1; Parallel WaveNet's output.
    """

    def __init__(self, d_model: int, levels: int = 256, n: int = 10) -> None:
        super().__init__()
        self.levels, self.linear = levels, nn.Linear(d_model, 3 * n)
        with torch.no_grad():  # bells side by side, wide enough to reach each other
            self.linear.bias.view(3, n)[1] = torch.linspace(-0.5, 0.5, n)
            self.linear.bias.view(3, n)[2] = -3.0

    def log_probability(
        self, y: Float[Tensor, "batch length H"], codes: Int[Tensor, "batch length two"]
    ) -> Float[Tensor, "batch length"]:
        """``log2 P(sample | y)`` of each sample, in bits."""
        coarse, fine = codes.unbind(-1)
        value = (self.levels * coarse + fine)[..., None]
        return self.interval(y, value, value + 1)[..., 0]

    def sample(self, y: Float[Tensor, "batch H"], sampler: TokenSampler) -> Int[Tensor, "batch two"]:
        """As from a softmax over all values, so that ``sampler`` means what it means elsewhere."""
        every = torch.arange(self.levels**2, device=y.device).expand(len(y), -1)
        whole = sampler(self.interval(y, every, every + 1) * math.log(2))
        return torch.stack([whole // self.levels, whole % self.levels], dim=-1)

    def interval(
        self, y: Float[Tensor, "*batch H"], low: Int[Tensor, "*batch n"], high: Int[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch n"]:
        """``log2 P(low <= value < high | y)`` of values 0 to ``levels**2 - 1``, for n intervals a sample.

        With a > b, ``F(a) - F(b) = F(a) F(-b) (1 - exp(b - a))``: no difference of near numbers is taken.
        """
        y = self.linear(y)
        weight, mean, log_scale = (y if y.dtype == torch.float64 else y.float()).chunk(3, dim=-1)
        log_scale = log_scale.clamp(
            max=12
        )  # wider, a step's share would be 0, whose logarithm has no gradient
        inverse = torch.exp(-log_scale.clamp(min=-12))[..., None, :]
        half = self.levels**2 // 2  # steps on either side of zero
        low, high = (edge[..., None].to(mean) for edge in (low, high))
        upper, lower = (inverse * ((edge - half - 0.5) / half - mean[..., None, :]) for edge in (high, low))
        top, bottom = high == 2 * half, low == 0
        inside = torch.log(-torch.expm1(-inverse * ((high - low) / half)))
        log_p = (
            torch.where(top, 0.0, F.logsigmoid(upper))
            + torch.where(bottom, 0.0, F.logsigmoid(-lower))
            + torch.where(top | bottom, 0.0, inside)
        )
        return torch.logsumexp(log_p + weight.log_softmax(-1)[..., None, :], dim=-1) / math.log(2)
