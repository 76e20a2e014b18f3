"""The options of sampling: one dataclass, which every engine and the command line take."""

from dataclasses import dataclass, field
from typing import Any


def _option(default: float | int | None, about: str) -> Any:
    """A field, with its line of help on the command line."""
    return field(default=default, metadata={"help": about})


@dataclass(frozen=True)
class SamplingConfig:
    """How codes are sampled from logits.

    The options apply in the order temperature, top-k, top-p: top-p is a share of what top-k keeps. Ties are
    broken in favour of lower codes. A sample of two codes, as from a dual softmax, takes two draws.

    >>> SamplingConfig(temperature=0.9, top_k=50)
    SamplingConfig(temperature=0.9, top_p=1.0, top_k=50)

    Chapter: 7. Raises ValueError for a temperature that is not positive, a top_p outside (0, 1], or a top_k
    that is not an integer of at least 1.
    """

    temperature: float = _option(1.0, "Softmax temperature; < 1 is more conservative.")
    top_p: float = _option(
        1.0, "Nucleus (top-p) sampling: smallest set of values whose probability reaches P."
    )
    top_k: int | None = _option(None, "Top-k sampling: the K most likely values; None: all.")

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k is not None and not (isinstance(self.top_k, int) and self.top_k >= 1):
            raise ValueError(f"top_k must be an integer of at least 1, or None, got {self.top_k}")
