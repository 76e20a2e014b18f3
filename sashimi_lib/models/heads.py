"""Output heads: a distribution of the next sample, given the features of a backbone (chapters 6 to 8).

    Softmax       one logit per level: 8 bits, as in the published SaShiMi and WaveNet
    DualSoftmax   16 bits as P(coarse) P(fine | coarse), two softmaxes over 256: that of WaveRNN
    JointSoftmax  16 bits as one softmax over 65,536, for comparison
    Logistics     16 bits as a mixture of ten logistic distributions, discretized to 65,536 values

The last three take the codes of `CoarseFine`. They have 256 levels each by default; with other ``levels`` a
sample has ``levels**2`` values.
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
    """A distribution of the codes of a sample, given features: ``codes`` codes, one or two, each of
    ``levels`` values."""

    codes: int = 2
    levels: int

    @abstractmethod
    def log_probability(
        self, y: Float[Tensor, "batch length H"], codes: Int[Tensor, "batch length *two"]
    ) -> Float[Tensor, "batch length"]:
        """Return ``log2 P(code | y)`` of each sample, in bits."""

    @abstractmethod
    def sample(self, y: Float[Tensor, "batch H"], sampler: TokenSampler) -> Int[Tensor, "batch *two"]:
        """Sample a code for each row of features; ``sampler`` picks it from the logits."""


class Softmax(nn.Linear, Head):
    """One logit per level: ``softmax(W y + b)``.

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
        """Return ``log2 P(code | y)`` of each sample, in bits."""
        return log2_prob(self(y), codes)

    def sample(self, y: Float[Tensor, "batch H"], sampler: TokenSampler) -> Int[Tensor, " batch"]:
        """Sample a code for each row of features; ``sampler`` picks it from the logits."""
        return sampler(self(y))


class DualSoftmax(Head):
    """``P(c | y) = softmax(O_2 relu(O_1 y))``, then ``P(f | y, c) = softmax(O_4 relu(O_3 y + E_c))``.

    The output layer of WaveRNN for any backbone. In WaveRNN the fine half of the state depends on c through
    the masked input matrix of the gates; here the logits of f depend on c through an embedding ``E_c``.

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
        """Return the logits of the coarse code."""
        return self.O2(F.relu(self.O1(y)))

    def fine(
        self, y: Float[Tensor, "*batch H"], coarse: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch levels"]:
        """Return the logits of the fine code, given the coarse one."""
        return self.O4(F.relu(self.O3(y) + self.E(coarse)))

    def log_probability(
        self, y: Float[Tensor, "batch length H"], codes: Int[Tensor, "batch length two"]
    ) -> Float[Tensor, "batch length"]:
        """Return ``log2 P(c | y) + log2 P(f | y, c)`` of each sample, in bits."""
        coarse, fine = codes.unbind(-1)
        return log2_prob(self(y), coarse) + log2_prob(self.fine(y, coarse), fine)

    def sample(self, y: Float[Tensor, "batch H"], sampler: TokenSampler) -> Int[Tensor, "batch two"]:
        """Sample the coarse code, then the fine one given it."""
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
        """Return ``log2 P(c, f | y)`` of each sample, in bits."""
        coarse, fine = codes.unbind(-1)
        return log2_prob(self.linear(y), self.levels * coarse + fine)

    def sample(self, y: Float[Tensor, "batch H"], sampler: TokenSampler) -> Int[Tensor, "batch two"]:
        """Sample both codes as one value."""
        value = sampler(self.linear(y))
        return torch.stack([value // self.levels, value % self.levels], dim=-1)


class Logistics(Head):
    """A mixture of ``n`` logistic distributions over the amplitude, discretized to ``levels**2`` steps: 16
    bits with 256 levels.

    Sample s in [-1, 1) has the probability ``sum_k w_k (F((s + d - m_k)/r_k) - F((s - d - m_k)/r_k))``, with
    F the logistic function and d half a step; the outermost steps also include the tails beyond them.

    >>> head = Logistics(8)
    >>> head.log_probability(torch.randn(1, 5, 8), torch.zeros(1, 5, 2, dtype=torch.long)).shape
    torch.Size([1, 5])

    Chapter: 8. PixelCNN++ (Salimans et al., 2017), section 2.1; Parallel WaveNet's output.
    """

    def __init__(self, d_model: int, levels: int = 256, n: int = 10) -> None:
        super().__init__()
        self.levels, self.linear = levels, nn.Linear(d_model, 3 * n)
        with torch.no_grad():  # evenly spaced means, scales wide enough to overlap
            self.linear.bias.view(3, n)[1] = torch.linspace(-0.5, 0.5, n)
            self.linear.bias.view(3, n)[2] = -3.0

    def log_probability(
        self, y: Float[Tensor, "batch length H"], codes: Int[Tensor, "batch length two"]
    ) -> Float[Tensor, "batch length"]:
        """Return ``log2 P(sample | y)`` of each sample, in bits."""
        coarse, fine = codes.unbind(-1)
        value = (self.levels * coarse + fine)[..., None]
        return self.interval(y, value, value + 1)[..., 0]

    def sample(self, y: Float[Tensor, "batch H"], sampler: TokenSampler) -> Int[Tensor, "batch two"]:
        """Sample from the log-probabilities of all values, which ``sampler`` takes as logits."""
        values = torch.arange(self.levels**2, device=y.device).expand(len(y), -1)
        value = sampler(self.interval(y, values, values + 1) * math.log(2))
        return torch.stack([value // self.levels, value % self.levels], dim=-1)

    def interval(
        self, y: Float[Tensor, "*batch H"], low: Int[Tensor, "*batch n"], high: Int[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch n"]:
        """Return ``log2 P(low <= value < high | y)`` of values 0 to ``levels**2 - 1``, for n intervals a
        sample.

        With a > b, ``F(a) - F(b) = F(a) F(-b) (1 - exp(b - a))``, which avoids cancellation.
        """
        y = self.linear(y)
        weight, mean, log_scale = (y if y.dtype == torch.float64 else y.float()).chunk(3, dim=-1)
        log_scale = log_scale.clamp(max=12)  # beyond, a step's probability underflows, without a gradient
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
