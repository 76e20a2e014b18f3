"""What training asks of a model, whatever it learns: a score for every sample (chapters 7 and 9)."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from sashimi_lib.models.blocks import State

Cache = tuple[Tensor, State]  # the last sample of each sequence, and the state before it


class Trainable(nn.Module, ABC):
    """A model that scores every sample of a batch; training makes the mean of the scores larger.

    Sequences are whatever the model is of: codes ``(batch, length)`` or ``(batch, length, 2)``, or waveforms
    ``(batch, length)``. ``pad_value`` is the sample that fills up the shorter ones of a batch, which is not
    scored. ``label`` is what else is known of each sequence, where the model can be told it.
    """

    @property
    @abstractmethod
    def pad_value(self) -> int | tuple[int, int] | float:
        """A sample of silence."""

    @abstractmethod
    def score(
        self,
        x: Num[Tensor, "batch length *two"],
        cache: Cache | None = None,
        label: Int[Tensor, " batch"] | None = None,
        random: Any = None,
    ) -> tuple[Float[Tensor, "batch length"], Cache | None]:
        """The score of every sample of whole sequences (``cache`` None), or of a piece of them; and the past
        of the next piece.

        ``random`` are rows of what `draw_random` gave; without them a model that needs some draws its own.
        The samples themselves are not looked at, which would have the CPU wait for a GPU: `check` does that.
        Raises ValueError for a label that the model cannot be told.
        """

    def draw_random(self, batch_size: int) -> Any:
        """The random numbers that `score` takes for so many sequences: tensors with a row for each, or None
        where it takes none.

        They are drawn for a whole batch, before it is split over processes or accumulated in parts, so that
        the split changes nothing. From PyTorch's own random numbers of the CPU, which follow from seed and
        step.
        """

    def check(self, x: Num[Tensor, "batch length *two"], label: Int[Tensor, " batch"] | None = None) -> None:
        """Raise ValueError for sequences or labels that `score` cannot take: once, where they are read."""

    @abstractmethod
    def initial_cache(self, batch_size: int) -> Cache | None:
        """The past of a first sample; None where the model hears sequences only as wholes."""

    def initial_cache_for(self, x: Num[Tensor, "batch length *two"]) -> Cache | None:
        """The past of the first sample of these sequences: `initial_cache`, unless the model is told something of
        each sequence from outside."""
        return self.initial_cache(len(x))

    @abstractmethod
    def sound(self, length: int, seed: int = 0) -> Float[Tensor, "batch length"]:
        """A waveform that the model makes up."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def generator(self, seed: int | torch.Generator) -> torch.Generator:
        """The random numbers of a seed, where its weights are; a generator is taken as it stands."""
        return seed if isinstance(seed, torch.Generator) else torch.Generator(self.device).manual_seed(seed)
