"""From logits to a code: temperature, the nucleus, and one random number (chapter 7)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

TokenSampler = Callable[[Tensor], Tensor]  # logits (batch, levels) -> codes (batch,)


def distribution(
    logits: Float[Tensor, "batch levels"], temperature: float = 1.0, top_p: float = 1.0
) -> Float[Tensor, "batch levels"]:
    """``softmax(logits / temperature)``, cut to its ``top_p`` nucleus: what `sample` draws from. Rows sum to
    one only before the cut.

    The nucleus is the smallest set of most likely codes whose probability reaches ``top_p``; of equally
    likely ones the lower codes are taken first.

    >>> distribution(torch.zeros(1, 4), top_p=0.5).sort().values
    tensor([[0.0000, 0.0000, 0.2500, 0.2500]])

    Chapter: 7. Raises ValueError for a temperature that is not positive or a top_p outside (0, 1].
    """
    _check(temperature, top_p)
    probability = cut_softmax(logits, temperature, top_p)
    if not bool(probability.isfinite().all()):
        raise ValueError("logits must be finite: the state has blown up")
    return probability


def cut_softmax(
    logits: Float[Tensor, "batch levels"], temperature: float, top_p: float
) -> Float[Tensor, "batch levels"]:
    """`distribution` without its checks, so that nothing waits for a GPU to answer. Logits that are not
    finite give NaN.

    >>> cut_softmax(torch.tensor([[0.0, torch.nan]]), 1.0, 1.0)
    tensor([[nan, nan]])
    """
    probability = (logits.float() / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = probability.sort(dim=-1, descending=True, stable=True)
        outside = ordered.double().cumsum(-1) - ordered >= top_p
        probability = probability.masked_fill(outside.gather(-1, order.argsort(-1)), 0)
    return probability


def invert(
    probability: Float[Tensor, "batch levels"], uniform: Float[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """The first code whose cumulative probability exceeds a number in [0, 1), of each row. Rows need not sum
    to one: the number is a share of their sum.

    >>> invert(torch.tensor([[0.5, 0.0, 0.5], [0.5, 0.0, 0.5]]), torch.tensor([0.4, 0.5]))
    tensor([0, 2])

    Chapter: 7.
    """
    cumulative = probability.double().cumsum(-1)
    return torch.searchsorted(cumulative, uniform.double()[:, None] * cumulative[:, -1:], right=True)[:, 0]


def sample(
    logits: Float[Tensor, "batch levels"],
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """Draw one code a row from `distribution`, each by one random number: whoever draws, in whatever way, the
    same numbers give the same codes.

    >>> sample(torch.tensor([[0.0, 9.0, 0.0]]), temperature=0.1)
    tensor([1])

    Chapter: 7. Raises ValueError as `distribution` does.
    """
    uniform = torch.rand(len(logits), generator=generator, device=logits.device, dtype=torch.float64)
    return invert(distribution(logits, temperature, top_p), uniform)


@dataclass(frozen=True, eq=False)
class Sampler:
    """`sample` with its settings: a `TokenSampler`. Raises ValueError for settings out of range, as `distribution`
    does."""

    temperature: float = 1.0
    top_p: float = 1.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        _check(self.temperature, self.top_p)

    def __call__(self, logits: Float[Tensor, "batch levels"]) -> Int[Tensor, " batch"]:
        """Logits to codes."""
        return sample(logits, self.temperature, self.top_p, self.generator)


def _check(temperature: float, top_p: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
