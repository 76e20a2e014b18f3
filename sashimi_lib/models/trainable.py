"""The interface between a model and the trainer: a loss for every sample (chapters 7 and 9)."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from sashimi_lib.models.blocks import State

Cache = tuple[Tensor, State]  # the last sample of each sequence, and the state before it


class Trainable(nn.Module, ABC):
    """A model with a loss for every sample of a batch; training minimizes its mean.

    Sequences are codes ``(batch, length)`` or ``(batch, length, 2)``, or waveforms ``(batch, length)``.
    ``pad_value`` is the sample that pads the shorter sequences of a batch; the loss of padding does not
    count. ``label`` is the class of each sequence, for a model that can be conditioned on one.
    """

    @property
    @abstractmethod
    def pad_value(self) -> int | tuple[int, int] | float:
        """The sample that pads a sequence: silence."""

    @abstractmethod
    def loss(
        self,
        x: Num[Tensor, "batch length *two"],
        cache: Cache | None = None,
        label: Int[Tensor, " batch"] | None = None,
        noise: Any = None,
    ) -> tuple[Float[Tensor, "batch length"], Cache | None]:
        """Return the loss of every sample, and the cache after the last: of whole sequences (``cache`` None),
        or of a chunk of them that follows ``cache``.

        ``noise`` holds rows of what `sample_noise` returned; a model that needs noise and gets None samples
        its own. Values of ``x`` and ``label`` are not checked, which would make the CPU wait for a GPU: see
        `check`. Raises ValueError for a label that the model cannot be conditioned on.
        """

    def sample_noise(self, batch_size: int) -> Any:
        """Return the random numbers that `loss` takes for ``batch_size`` sequences: tensors with a row for
        each sequence, or None where it takes none.

        They are sampled for a whole batch before it is sharded over processes or split for gradient
        accumulation, so that the split changes nothing. They come from PyTorch's global CPU generator, whose
        state follows from the seed and the step.
        """

    def check(self, x: Num[Tensor, "batch length *two"], label: Int[Tensor, " batch"] | None = None) -> None:
        """Raise ValueError for sequences or labels that `loss` cannot take. Called once, where data is
        read."""

    @abstractmethod
    def initial_cache(self, batch_size: int) -> Cache | None:
        """Return the cache before the first sample; None where a model takes whole sequences only."""

    def initial_cache_for(self, x: Num[Tensor, "batch length *two"]) -> Cache | None:
        """Return the cache before the first sample of these sequences: `initial_cache`, unless the model is
        conditioned on a property of each sequence."""
        return self.initial_cache(len(x))

    @abstractmethod
    def sample_audio(self, length: int, seed: int = 0) -> Float[Tensor, "batch length"]:
        """Sample a waveform from the model."""

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def generator(self, seed: int | torch.Generator) -> torch.Generator:
        """Return a random number generator with this seed on the model's device; a generator is returned as
        it is."""
        return seed if isinstance(seed, torch.Generator) else torch.Generator(self.device).manual_seed(seed)
