"""What every model of sound as codes has in common, and what those that are drawn from sample by sample have.

``P(x) = prod_t P(x_t | x_0 ... x_{t-1})``: whatever gives these factors, with a state in place of the past,
can be scored and drawn from in the same way (chapters 6 to 8).
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
    """A distribution over sequences of codes. The score of a sample is its log-likelihood, in bits.

    Codes are ``(batch, length)``, or ``(batch, length, 2)`` where the quantizer makes two of each sample.
    Before the first sample there is silence.
    """

    quantizer: Quantizer

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state of silence."""

    @abstractmethod
    def log_likelihood_from(
        self, codes: Int[Tensor, "batch length *two"], cache: Cache
    ) -> tuple[Float[Tensor, "batch length"], Cache]:
        """`log_likelihood` of a sequence in pieces: of one piece, given its past; and the past of the
        next."""

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
        """Draw ``length`` new codes; those of ``prompt`` are heard first, not returned. The same seed draws
        the same codes."""

    def log_likelihood(self, codes: Int[Tensor, "batch length *two"]) -> Float[Tensor, "batch length"]:
        """``log2 P(x_t | x_<t)`` of every sample, in bits (so never positive); what comes before is
        silence."""
        self.quantizer.check(codes)
        return self._log_likelihood(codes)

    def _log_likelihood(self, codes: Int[Tensor, "batch length *two"]) -> Float[Tensor, "batch length"]:
        """The same of codes that were looked at before."""
        return self.log_likelihood_from(codes, self.initial_cache_for(codes))[0]

    def check(self, x: Int[Tensor, "batch length *two"], label: Int[Tensor, " batch"] | None = None) -> None:
        """Raise ValueError unless these are codes of its quantizer, and none of them has a label."""
        if label is not None:
            raise ValueError("label must be None: a model of codes is told no classes")
        self.quantizer.check(x)

    def score(
        self,
        x: Int[Tensor, "batch length *two"],
        cache: Cache | None = None,
        label: Int[Tensor, " batch"] | None = None,
        random: None = None,
    ) -> tuple[Float[Tensor, "batch length"], Cache | None]:
        """`log_likelihood` of whole sequences, or `log_likelihood_from` of a piece. Raises ValueError for a
        label."""
        if label is not None:
            raise ValueError("label must be None: a model of codes is told no classes")
        return (self._log_likelihood(x), None) if cache is None else self.log_likelihood_from(x, cache)

    def sound(self, length: int, seed: int = 0) -> Float[Tensor, "1 length"]:
        """What `generate` draws, as a waveform."""
        return self.quantizer.decode(self.generate(length, seed=seed))

    @property
    def pad_value(self) -> int | tuple[int, int]:
        """The code of silence, or its two."""
        return self.quantizer.silence

    def initial_cache(self, batch_size: int) -> Cache:
        """The past of a first sample: a code of silence, and the state of silence before it."""
        silence = torch.tensor(self.quantizer.silence, device=self.device)
        return silence.expand(batch_size, *silence.shape), self.initial_state(batch_size)

    def initial_cache_for(self, x: Int[Tensor, "batch length *two"]) -> Cache:
        """The past of the first sample of these sequences."""
        return self.initial_cache(len(x))


class Autoregressive(DiscreteAudioModel):
    """A model that is drawn from one sample after the other."""

    @abstractmethod
    def prefill(self, codes: Int[Tensor, "batch length *two"], cache: Cache) -> Cache:
        """The past after some more codes, all at once."""

    @abstractmethod
    def sample_next(
        self, code: Int[Tensor, "batch *two"], state: State, sampler: TokenSampler
    ) -> tuple[Int[Tensor, "batch *two"], State]:
        """The code after one more code, as ``sampler`` picks it from its logits, and the next state."""

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
        """Draw ``length`` new codes, one after the other; those of ``prompt`` are heard first, not returned.

        The prompt is absorbed by the parallel pass. The same seed draws the same codes. Raises ValueError for
        a length out of range, and for codes that are none.
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
        """The next ``length`` codes after a past, sampled by random numbers of ``generator``; and the past
        after them."""
        sampler = partial(sample_token, sampling=sampling, generator=generator)
        code, state = cache
        codes = []
        # Once, not at every step: weights under weight norm are multiplied out, systems made discrete.
        with parametrize.cached(), cached_kernels(self):
            for _ in tqdm(range(length), unit="sample", unit_scale=True, disable=not progress):
                code, state = self.sample_next(code, state, sampler)
                codes.append(code)
        return torch.stack(codes, dim=1), (code, state)


def shift_right(
    codes: Int[Tensor, "batch length *two"], before: Int[Tensor, "batch *two"]
) -> Int[Tensor, "batch length *two"]:
    """What is heard when each of some codes is predicted: the one before it.

    >>> shift_right(torch.tensor([[1, 2, 3]]), torch.tensor([0]))
    tensor([[0, 1, 2]])
    """
    return torch.cat([before[:, None], codes[:, :-1]], dim=1)


def log2_prob(
    logits: Float[Tensor, "batch length levels"], codes: Int[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """``log2`` of the softmax of the logits, at the codes; in float32 or better.

    >>> log2_prob(torch.zeros(1, 1, 256), torch.tensor([[7]]))
    tensor([[-8.]])
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    # One row a sample: where the levels are not the last axis, this takes several times as long.
    flat = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
    return -flat.view(codes.shape) / math.log(2)
