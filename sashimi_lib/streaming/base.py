"""The base class of generation engines: a model with another implementation of `generate_from`.

An engine computes the same logits, but adds in another order, so they differ by rounding. Sampling compares a
random number with a cumulative probability, and on a CPU every engine uses the same random numbers for a
seed. So all engines generate the same codes until a random number lies within rounding of such a probability,
typically after thousands of samples; from there on the sequences differ. The distribution stays the same.
"""

from collections.abc import Iterator

from jaxtyping import Float, Int, Num
from torch import Tensor
from tqdm.auto import tqdm

from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.blocks import State
from sashimi_lib.models.sampling import TokenSampler
from sashimi_lib.models.trainable import Cache
from sashimi_lib.models.wavernn import WaveRNN

CHUNK = 1024  # samples that are generated between two updates of the progress bar


class Engine(Autoregressive):
    """A wrapper that generates with its own `generate_from`, and forwards all other methods to the model."""

    def __init__(self, model: Autoregressive) -> None:
        super().__init__()
        self.model, self.quantizer = model, model.quantizer

    def initial_state(self, batch_size: int) -> State:
        """Return the initial state of the model."""
        return self.model.initial_state(batch_size)

    def initial_cache_for(self, x: Num[Tensor, "batch length *two"]) -> Cache:
        """Return the model's initial cache for these sequences."""
        return self.model.initial_cache_for(x)

    def log_likelihood_from(
        self, codes: Int[Tensor, "batch length *two"], cache: Cache
    ) -> tuple[Float[Tensor, "batch length"], Cache]:
        """Return the model's log-likelihoods of a chunk, and the cache after it."""
        return self.model.log_likelihood_from(codes, cache)

    def prefill(self, codes: Int[Tensor, "batch length *two"], cache: Cache) -> Cache:
        """Return the cache after ``codes``, by the model's parallel pass."""
        return self.model.prefill(codes, cache)

    def sample_next(
        self, code: Int[Tensor, "batch *two"], state: State, sampler: TokenSampler
    ) -> tuple[Int[Tensor, "batch *two"], State]:
        """Sample one code by the model's own step, which is no faster."""
        return self.model.sample_next(code, state, sampler)


def chunk_sizes(length: int, progress: bool) -> Iterator[int]:
    """Yield the sizes of the chunks that make up ``length`` samples, and update a progress bar if asked to.

    >>> list(chunk_sizes(3_000, progress=False))
    [1024, 1024, 952]
    """
    with tqdm(total=length, unit="sample", unit_scale=True, disable=not progress) as bar:
        for start in range(0, length, CHUNK):
            samples = min(CHUNK, length - start)
            yield samples
            bar.update(samples)


def check_unconditional(model: WaveRNN) -> None:
    """Raise ValueError for a WaveRNN with conditioning, which engines do not pass on."""
    if model.config.d_conditioning:
        raise ValueError(
            f"model must take no conditioning, got one with d_conditioning={model.config.d_conditioning}"
        )
