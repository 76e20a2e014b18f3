"""Base classes of models of audio codes: likelihood, prefill and sampling (chapters 6 to 8).

``P(x) = prod_t P(x_t | x_0 ... x_{t-1})``: a model computes these factors, with a state in place of the
earlier samples. Likelihood and sampling then are the same code for every model.
"""

import math
from abc import ABC, abstractmethod
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parametrize
from tqdm.auto import tqdm

from sashimi_lib.audio.quantizers import Quantizer
from sashimi_lib.models.blocks import State
from sashimi_lib.models.sampling import SamplingConfig, TokenSampler, sample_token
from sashimi_lib.models.trainable import Cache, Trainable
from sashimi_lib.ssm.kernel_cache import cached_kernels
from sashimi_lib.ssm.precision import cudnn_as_matmul


class DiscreteAudioModel(Trainable, ABC):
    """A distribution over sequences of codes. The loss of a sample is its negative log-likelihood, in bits.

    Codes are ``(batch, length)``, or ``(batch, length, 2)`` for a quantizer with two codes a sample. The
    context of the first sample is silence.
    """

    quantizer: Quantizer

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first sample, whose context is silence."""

    @abstractmethod
    def log_likelihood_from(
        self, codes: Int[Tensor, "batch length *two"], cache: Cache
    ) -> tuple[Float[Tensor, "batch length"], Cache]:
        """Return `log_likelihood` of a chunk of a sequence, given the cache before it; and the cache after
        it."""

    @abstractmethod
    def generate(
        self,
        length: int,
        batch_size: int = 1,
        prompt: Int[Tensor, "batch prompt *two"] | None = None,
        sampling: SamplingConfig = SamplingConfig(),
        seed: int | torch.Generator = 0,
        progress: bool = False,
    ) -> Int[Tensor, "batch length *two"]:
        """Sample ``length`` new codes that continue ``prompt``, which is not returned. The same seed gives
        the same codes."""

    def log_likelihood(self, codes: Int[Tensor, "batch length *two"]) -> Float[Tensor, "batch length"]:
        """Return ``log2 P(x_t | x_<t)`` of every sample, in bits, never positive; the context of the first
        sample is silence."""
        self.quantizer.check(codes)
        return self._log_likelihood(codes)

    def _log_likelihood(self, codes: Int[Tensor, "batch length *two"]) -> Float[Tensor, "batch length"]:
        """Return `log_likelihood` of codes that have been checked."""
        return self.log_likelihood_from(codes, self.initial_cache_for(codes))[0]

    def check(self, x: Int[Tensor, "batch length *two"], label: Int[Tensor, " batch"] | None = None) -> None:
        """Raise ValueError unless these are codes of the quantizer, without labels."""
        _check_unlabeled(label)
        self.quantizer.check(x)

    def loss(
        self,
        x: Int[Tensor, "batch length *two"],
        cache: Cache | None = None,
        label: Int[Tensor, " batch"] | None = None,
        noise: None = None,
    ) -> tuple[Float[Tensor, "batch length"], Cache | None]:
        """Return ``-log2 P(x_t | x_<t)`` of every sample in bits, and the cache after the last: of whole
        sequences (``cache`` None), or of a chunk that follows ``cache``. Raises ValueError for a label."""
        _check_unlabeled(label)
        if cache is None:
            return -self._log_likelihood(x), None
        log_likelihood, cache = self.log_likelihood_from(x, cache)
        return -log_likelihood, cache

    def sample_audio(self, length: int, seed: int = 0) -> Float[Tensor, "1 length"]:
        """Sample codes by `generate`, and decode them to a waveform."""
        return self.quantizer.decode(self.generate(length, seed=seed))

    @property
    def pad_value(self) -> int | tuple[int, int]:
        """The code of silence, or the pair of codes."""
        return self.quantizer.silence

    def initial_cache(self, batch_size: int) -> Cache:
        """Return the cache before the first sample: the code of silence, and `initial_state`."""
        silence = torch.tensor(self.quantizer.silence, device=self.device)
        return silence.expand(batch_size, *silence.shape), self.initial_state(batch_size)

    def initial_cache_for(self, x: Int[Tensor, "batch length *two"]) -> Cache:
        """Return the cache before the first sample of these sequences."""
        return self.initial_cache(len(x))


class Autoregressive(DiscreteAudioModel):
    """A model that samples codes one after the other."""

    @abstractmethod
    def prefill(self, codes: Int[Tensor, "batch length *two"], cache: Cache) -> Cache:
        """Return the cache after ``codes``, by one parallel pass over them."""

    @abstractmethod
    def sample_next(
        self, code: Int[Tensor, "batch *two"], state: State, sampler: TokenSampler
    ) -> tuple[Int[Tensor, "batch *two"], State]:
        """Process ``code``; return the code after it, which ``sampler`` picks from the logits, and the next
        state."""

    @torch.no_grad()
    @cudnn_as_matmul()
    def generate(
        self,
        length: int,
        batch_size: int = 1,
        prompt: Int[Tensor, "batch prompt *two"] | None = None,
        sampling: SamplingConfig = SamplingConfig(),
        seed: int | torch.Generator = 0,
        progress: bool = False,
    ) -> Int[Tensor, "batch length *two"]:
        """Sample ``length`` new codes, one after the other, that continue ``prompt``, which is not returned.

        The prompt goes through the parallel pass (`prefill`). The same seed gives the same codes. Raises
        ValueError for a length below 1, and for a prompt that is not of the quantizer's codes.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1 sample, got {length}")
        cache = self.initial_cache(batch_size if prompt is None else len(prompt))
        if prompt is not None and prompt.shape[1] > 0:
            self.quantizer.check(prompt, "prompt")
            cache = self.prefill(prompt.to(self.device), cache)
        return self.generate_from(cache, length, sampling, self.generator(seed), progress)[0]

    @torch.no_grad()
    @cudnn_as_matmul()
    def generate_from(
        self,
        cache: Cache,
        length: int,
        sampling: SamplingConfig = SamplingConfig(),
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> tuple[Int[Tensor, "batch length *two"], Cache]:
        """Sample the ``length`` codes that follow ``cache``, with random numbers of ``generator``; return
        them and the cache after them."""
        sampler = partial(sample_token, sampling=sampling, generator=generator)
        code, state = cache
        codes = []
        # Once, not at every step: weight norm is applied, and state spaces are discretized.
        with parametrize.cached(), cached_kernels(self):
            for _ in tqdm(range(length), unit="sample", unit_scale=True, disable=not progress):
                code, state = self.sample_next(code, state, sampler)
                codes.append(code)
        return torch.stack(codes, dim=1), (code, state)


def _check_unlabeled(label: Tensor | None) -> None:
    if label is not None:
        raise ValueError("label must be None: a model of codes has no classes")


def shift_right(
    codes: Int[Tensor, "batch length *two"], before: Int[Tensor, "batch *two"]
) -> Int[Tensor, "batch length *two"]:
    """Shift codes right by one sample: the inputs from which ``codes`` are predicted.

    >>> shift_right(torch.tensor([[1, 2, 3]]), torch.tensor([0]))
    tensor([[0, 1, 2]])
    """
    return torch.cat([before[:, None], codes[:, :-1]], dim=1)


def log2_prob(
    logits: Float[Tensor, "batch length levels"], codes: Int[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """Return ``log2 softmax(logits)`` at ``codes``; half-precision logits are converted to float32.

    >>> log2_prob(torch.zeros(1, 1, 256), torch.tensor([[7]]))
    tensor([[-8.]])
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    # One row per sample: with the levels not on the last axis this takes several times as long.
    flat = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
    return -flat.view(codes.shape) / math.log(2)
