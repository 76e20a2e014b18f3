"""The graph engine: on a GPU, each step is launched as one CUDA graph.

A step of these models is hundreds of small kernels, and launching them one by one takes longer than running
them. A CUDA graph captures the launches, and replays the same kernels on the same memory. So the inputs and
outputs of a step must keep their addresses, and nothing in it may synchronize with the GPU: `StaticStep`.
Only values on the CPU may determine the kernels. In SaShiMi these are the phases of the frames: there is a
graph for each phase of the longest frame, and they are replayed in turn.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.sampling import SamplingConfig, check_finite_logits, inverse_cdf, token_probs
from sashimi_lib.models.sparse import SparseLinear
from sashimi_lib.models.trainable import Cache
from sashimi_lib.models.wavernn import WaveRNN
from sashimi_lib.ssm.kernel_cache import CachesKernels, cached_kernels
from sashimi_lib.ssm.precision import cudnn_as_matmul
from sashimi_lib.streaming.base import CHUNK, Engine, check_unconditional, chunk_sizes
from sashimi_lib.streaming.static_state import RingBuffers, StaticBuffers, StaticState, clone_state

WARMUP_FRAMES = 2  # before capture, in which libraries initialize and constants are computed


class StaticStep:
    """One generation step that a CUDA graph can capture: static inputs and outputs, and no synchronization.

    Before the steps of a chunk `fill_uniforms` generates its random numbers. After them ``codes`` holds its
    codes, and ``finite`` whether all logits were finite.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> model = WaveRNN(WaveRNNConfig(d_hidden=8))
    >>> step, generator = StaticStep(model, 1, SamplingConfig()), model.generator(0)
    >>> with torch.no_grad():
    ...     step.load(model.initial_cache(1))
    ...     step.fill_uniforms(20, generator)
    ...     for _ in range(20):
    ...         step()
    >>> torch.equal(step.codes[:20, 0], model.generate(20, seed=0)[0])
    True

    Chapter: 7.
    """

    def __init__(self, model: Autoregressive, batch_size: int, sampling: SamplingConfig) -> None:
        self.model, self.sampling = model, sampling
        code, state = model.initial_cache(batch_size)
        self.code = clone_state(code)
        queues = getattr(getattr(model, "backbone", None), "state_is_queues", False)
        self.state: StaticState = RingBuffers(state) if queues else StaticBuffers(state)
        draws, device = _draws_per_sample(model), code.device
        self.uniform = torch.zeros(CHUNK, draws, batch_size, dtype=torch.float64, device=device)
        self.codes = code.new_zeros(CHUNK, *code.shape)
        self.position = torch.zeros(1, dtype=torch.long, device=device)  # of the next sample in the chunk
        self.finite = torch.ones((), dtype=torch.bool, device=device)

    def load(self, cache: Cache) -> None:
        """Copy a cache into the static tensors."""
        self.code.copy_(cache[0])
        self.state.load(cache[1])
        self.finite.fill_(True)

    def cache(self) -> Cache:
        """Return a copy of the current cache."""
        return self.code.clone(), self.state.copy()

    def fill_uniforms(self, samples: int, generator: torch.Generator | None) -> None:
        """Generate the random numbers of a chunk in one call, and start at its first sample.

        On a CPU they equal those of one call of `sample_token` after the other. On a GPU they do not, since
        there each call of the generator starts a new block.
        """
        self.uniform[:samples].uniform_(generator=generator)
        self.position.zero_()

    def __call__(self) -> None:
        """Generate the next sample."""
        uniform = iter(self.uniform.index_select(0, self.position)[0].unbind())
        sampler = functools.partial(self._sample_token, next_uniform=uniform.__next__)
        code, state = self.model.sample_next(self.code, self.state.read(), sampler)
        self.state.write(state)
        self.code.copy_(code)
        self.codes.index_copy_(0, self.position, code[None])
        self.position.add_(1)

    def host_counters(self) -> tuple[int, ...]:
        """Return the values on the CPU that determine the kernels of the next step."""
        return tuple(map(int, self.state.host_counters()))

    def set_host_counters(self, values: tuple[int, ...]) -> None:
        """Set the values on the CPU, which the replay of a graph does not change."""
        for counter, value in zip(self.state.host_counters(), values, strict=True):
            counter.fill_(value)

    def _sample_token(
        self, logits: Float[Tensor, "batch levels"], next_uniform: Callable[[], Tensor]
    ) -> Int[Tensor, " batch"]:
        """Sample as `sample_token`, but record non-finite logits in ``finite`` instead of raising."""
        probability = token_probs(logits, self.sampling)
        self.finite.logical_and_(probability.isfinite().all())
        return inverse_cdf(probability, next_uniform()).clamp(max=probability.shape[-1] - 1)


class CapturedGraphs:
    """A static step captured as CUDA graphs, one for each tuple of its host counters.

    The graphs share a memory pool, since they never run concurrently and leave no results in it.
    """

    def __init__(self, step: StaticStep) -> None:
        self.step = step
        self.graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, tuple[int, ...]]] = {}
        with torch.cuda.device(step.code.device), parametrize.cached(), cached_kernels(step.model):
            # Computed once and kept, since the graphs read them at these addresses.
            self.weights, self.discretized = _normed_weights(step.model), _discretized(step.model)
            self._warm_up()
            self._capture()

    def __call__(self) -> None:
        """Replay the graph of the next sample."""
        graph, after = self.graphs[self.step.host_counters()]
        graph.replay()
        self.step.set_host_counters(after)

    def _warm_up(self) -> None:
        """Run whole frames on a side stream, as PyTorch requires, back to the first host counters."""
        stream, start = torch.cuda.Stream(), self.step.host_counters()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_FRAMES):
                self._eager_step()
                while self.step.host_counters() != start:
                    self._eager_step()
        torch.cuda.current_stream().wait_stream(stream)

    def _eager_step(self) -> None:
        self.step.position.zero_()  # a frame may be longer than a chunk
        self.step()

    def _capture(self) -> None:
        pool = torch.cuda.graph_pool_handle()
        while (before := self.step.host_counters()) not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            # "thread_local" lets other threads call CUDA meanwhile, for example to pin memory.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self.step()  # runs nothing on the GPU, but advances the host counters
            self.graphs[before] = graph, self.step.host_counters()


class Graphed(Engine):
    """An engine that generates by replaying CUDA graphs. See `graphed`.

    Weights are copied once: create a new engine after further training. Graphs are captured by the first
    call, and again for another batch size or other sampling options. With ``capture=False`` the same steps
    are launched kernel by kernel, on any device, as a reference.
    """

    def __init__(self, model: Autoregressive, capture: bool = True) -> None:
        _check_static(model)
        super().__init__(model)
        self.capture = capture
        self._new_step = functools.partial(StaticStep, _frozen_copy(model))  # hidden: it is no submodule
        self._captured: tuple[tuple, StaticStep, Callable[[], None]] | None = None

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
        """Sample ``length`` codes from a cache by static steps, and return the cache after them."""
        step, run_step = self._step_for(len(cache[0]), sampling)
        step.load(cache)
        chunks = []
        with cached_kernels(step.model):
            for samples in chunk_sizes(length, progress):
                step.fill_uniforms(samples, generator)
                for _ in range(samples):
                    run_step()
                check_finite_logits(bool(step.finite))
                chunks.append(step.codes[:samples].clone())
        return torch.cat(chunks).transpose(0, 1).contiguous(), step.cache()

    def _step_for(self, batch_size: int, sampling: SamplingConfig) -> tuple[StaticStep, Callable[[], None]]:
        """Return the static step for these settings, and the function that runs it."""
        settings = batch_size, sampling
        if self._captured is None or self._captured[0] != settings:
            self._captured = None  # frees the memory of other graphs first
            step = self._new_step(*settings)
            self._captured = settings, step, CapturedGraphs(step) if self.capture else step
        return self._captured[1:]


def graphed(model: Autoregressive) -> Graphed:
    """Return an engine that generates on a GPU by replaying CUDA graphs.

    It samples from the model's distribution, but with other random numbers for a seed than the model uses
    on a GPU (`StaticStep.fill_uniforms`).

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> graphed(WaveRNN(WaveRNNConfig(d_hidden=32)))
    Traceback (most recent call last):
        ...
    ValueError: model must be on a CUDA device, got one on cpu

    Chapter: 7. Raises ValueError for a model that is not on a CUDA device, that is conditional, as a vocoder
    is, or whose matrices are sparse.
    """
    if model.device.type != "cuda":
        raise ValueError(f"model must be on a CUDA device, got one on {model.device}")
    return Graphed(model)


def _check_static(model: Autoregressive) -> None:
    """Raise ValueError for a model that has no static step."""
    name = type(model).__name__
    if isinstance(model, WaveRNN):
        check_unconditional(model)
    if not isinstance(model, AudioLM | WaveRNN):
        raise ValueError(f"model must be an AudioLM or a WaveRNN, got {name}")
    if any(isinstance(module, SparseLinear) for module in model.modules()):
        raise ValueError(f"model must be dense, got a {name} with sparse matrices")


def _frozen_copy(model: Autoregressive) -> Autoregressive:
    """Return a copy without gradients, whose weights stay as and where they are while graphs read them."""
    model = copy.deepcopy(model).requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # the weights of a copy are not contiguous
    return model


def _normed_weights(model: Autoregressive) -> list[Tensor]:
    """Return the weights that parametrizations compute, such as weight norm."""
    return [
        getattr(module, name)
        for module in model.modules()
        if parametrize.is_parametrized(module)
        for name in module.parametrizations  # type: ignore[union-attr]
    ]


def _discretized(model: Autoregressive) -> list[Any]:
    """Return the discretized systems of all state spaces."""
    return [module.discretized() for module in model.modules() if isinstance(module, CachesKernels)]


def _draws_per_sample(model: Autoregressive) -> int:
    """Return the number of calls of the sampler for one sample."""
    draws = 0

    def count(logits: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return logits.argmax(-1)

    model.sample_next(*model.initial_cache(1), count)
    return draws
