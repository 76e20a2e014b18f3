"""Sampling a code from logits: temperature, top-k, top-p (chapter 7)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sashimi_lib.sampling_config import SamplingConfig

TokenSampler = Callable[[Tensor], Tensor]  # logits (batch, levels) -> codes (batch,)


def distribution(
    logits: Float[Tensor, "batch levels"], sampling: SamplingConfig = SamplingConfig()
) -> Float[Tensor, "batch levels"]:
    """Return the probabilities that `sample_token` samples from: ``softmax(logits / temperature)`` of the
    ``top_k`` most likely codes, truncated to the nucleus. Truncation does not renormalize the rows.

    The nucleus is the smallest set of most likely codes whose probability reaches ``top_p``.

    >>> distribution(torch.zeros(1, 4), SamplingConfig(top_p=0.5))
    tensor([[0.2500, 0.2500, 0.0000, 0.0000]])
    >>> distribution(torch.zeros(1, 4), SamplingConfig(top_k=2))
    tensor([[0.5000, 0.5000, 0.0000, 0.0000]])

    Chapter: 7. Raises ValueError for logits that are not finite.
    """
    probability = token_probs(logits, sampling)
    check_finite_logits(bool(probability.isfinite().all()))
    return probability


def check_finite_logits(finite: bool) -> None:
    """Raise ValueError unless all logits were finite."""
    if not finite:
        raise ValueError("logits must be finite: the model diverged (unstable weights, or NaN in its input)")


def token_probs(
    logits: Float[Tensor, "batch levels"], sampling: SamplingConfig
) -> Float[Tensor, "batch levels"]:
    """Return `distribution` without the check, which synchronizes with a GPU. Logits that are not finite give
    NaN.

    >>> token_probs(torch.tensor([[0.0, torch.nan]]), SamplingConfig())
    tensor([[nan, nan]])
    """
    logits = logits.float()
    if sampling.top_k is not None:
        _, order = logits.sort(dim=-1, descending=True, stable=True)
        logits = logits.masked_fill(order.argsort(-1) >= sampling.top_k, -math.inf)
    probability = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probability.sort(dim=-1, descending=True, stable=True)
        outside = ordered.double().cumsum(-1) - ordered >= sampling.top_p
        probability = probability.masked_fill(outside.gather(-1, order.argsort(-1)), 0)
    return probability


def inverse_cdf(
    probability: Float[Tensor, "batch levels"], uniform: Float[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """Return, for each row, the first code whose cumulative probability exceeds ``uniform``, a number in
    [0, 1). Rows need not sum to one: ``uniform`` is relative to their sum.

    >>> inverse_cdf(torch.tensor([[0.5, 0.0, 0.5], [0.5, 0.0, 0.5]]), torch.tensor([0.4, 0.5]))
    tensor([0, 2])

    Chapter: 7.
    """
    cumulative = probability.double().cumsum(-1)
    return torch.searchsorted(cumulative, uniform.double()[:, None] * cumulative[:, -1:], right=True)[:, 0]


def sample_token(
    logits: Float[Tensor, "batch levels"],
    sampling: SamplingConfig = SamplingConfig(),
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """Sample one code per row from `distribution`, with one uniform random number each. The same random
    numbers give the same codes in every engine.

    >>> sample_token(torch.tensor([[0.0, 9.0, 0.0]]), SamplingConfig(temperature=0.1))
    tensor([1])

    With its options bound (`functools.partial`) it is a ``TokenSampler``. Chapter: 7. Raises
    ValueError for logits that are not finite.
    """
    uniform = torch.rand(len(logits), generator=generator, device=logits.device, dtype=torch.float64)
    return inverse_cdf(distribution(logits, sampling), uniform)


def sampler_from_uniforms(
    uniform: Float[Tensor, "batch calls"], sampling: SamplingConfig = SamplingConfig()
) -> TokenSampler:
    """Return a sampler that uses given uniform random numbers in [0, 1), one per row and call: it returns the
    first code whose cumulative probability exceeds the number. So codes do not depend on the order of
    sampling.

    >>> sampler = sampler_from_uniforms(torch.tensor([[0.1, 0.6]]))
    >>> sampler(torch.zeros(1, 4)), sampler(torch.zeros(1, 4))
    (tensor([0]), tensor([2]))

    Chapter: 8. The sampler raises ValueError as `distribution` does.
    """
    columns = iter(uniform.unbind(-1))

    def sampler(logits: Tensor) -> Tensor:
        return inverse_cdf(distribution(logits, sampling), next(columns))

    return sampler
