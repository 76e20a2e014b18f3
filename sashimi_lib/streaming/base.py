"""What every engine is: a model that draws its samples in another way, and in all else is the model it was
made from.

An engine computes the same logits, but sums in another order, so they differ by rounding. A draw compares a
random number with a cumulative probability. On a CPU the random numbers of a seed are the same for every
engine: so the same codes come out until such a number lies within rounding of an edge, typically after
thousands of samples, and the sequence goes another way. The distribution stays the same throughout.
"""

from collections.abc import Iterator

from jaxtyping import Float, Int, Num
from torch import Tensor
from tqdm.auto import tqdm

from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.blocks import State
from sashimi_lib.models.sampling import TokenSampler
from sashimi_lib.models.trainable import Cache

PIECE = 1024  # samples that are made between two looks at the progress bar


class Engine(Autoregressive):
    """A model with a `generate_from` of its own: the same distribution, sooner."""

    def __init__(self, model: Autoregressive) -> None:
        super().__init__()
        self.model, self.quantizer = model, model.quantizer

    def initial_state(self, batch_size: int) -> State:
        """The state of silence."""
        return self.model.initial_state(batch_size)

    def initial_cache_for(self, x: Num[Tensor, "batch length *two"]) -> Cache:
        """The past of the first sample of these sequences, as of the model."""
        return self.model.initial_cache_for(x)

    def log_likelihood_from(
        self, codes: Int[Tensor, "batch length *two"], cache: Cache
    ) -> tuple[Float[Tensor, "batch length"], Cache]:
        """As of the model."""
        return self.model.log_likelihood_from(codes, cache)

    def prefill(self, codes: Int[Tensor, "batch length *two"], cache: Cache) -> Cache:
        """As of the model: all at once."""
        return self.model.prefill(codes, cache)

    def sample_next(
        self, code: Int[Tensor, "batch *two"], state: State, sampler: TokenSampler
    ) -> tuple[Int[Tensor, "batch *two"], State]:
        """As of the model: one sample, and no faster."""
        return self.model.sample_next(code, state, sampler)


def in_pieces(length: int, progress: bool) -> Iterator[int]:
    """How many samples to make next, until there are ``length``, under a progress bar if wanted.

    >>> list(in_pieces(3_000, progress=False))
    [1024, 1024, 952]
    """
    with tqdm(total=length, unit="sample", unit_scale=True, disable=not progress) as bar:
        for start in range(0, length, PIECE):
            samples = min(PIECE, length - start)
            yield samples
            bar.update(samples)
