"""The graph engine: on a GPU, whole steps launched at once, as CUDA graphs.

A step of these models is hundreds of small kernels, and launching them one by one takes longer than running
them. A CUDA graph is a recording of such launches: it runs the same kernels on the same memory again. So
what a step reads and writes has to stay where it is, and nothing in it may ask the GPU for a number: that is
`StaticStep`. Only what the CPU knows may decide which kernels run. In a SaShiMi it is how far the frames have
come: there is a graph for each sample of a whole frame, and they are replayed in turn.
"""

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.blocks import State
from sashimi_lib.models.sampling import SamplingConfig, inverse_cdf, token_probs
from sashimi_lib.models.sparse import SparseLinear
from sashimi_lib.models.states import flatten_state, unflatten_state
from sashimi_lib.models.trainable import Cache
from sashimi_lib.models.wavernn import WaveRNN
from sashimi_lib.ssm.kernel_cache import CachesKernels, cached_kernels
from sashimi_lib.ssm.precision import cudnn_as_matmul
from sashimi_lib.streaming.base import PIECE, Engine, in_pieces

ROUNDS = 2  # whole frames that are made before recording: libraries set themselves up, constants are computed


class StaticState(ABC):
    """A state that stays where it is."""

    @abstractmethod
    def fill(self, state: State) -> None:
        """Take a state over."""

    @abstractmethod
    def copy(self) -> State:
        """The state as it is now, as the model has it, in memory of its own."""

    @abstractmethod
    def read(self) -> State:
        """What the model's step has to know of it."""

    @abstractmethod
    def write(self, state: State) -> None:
        """Take over what the model's step made of that."""

    def host_counters(self) -> list[Tensor]:
        """What of it is on the CPU, numbers without an axis: they decide which kernels a step runs."""
        return []


class StaticBuffers(StaticState):
    """A place for each tensor of a state, whatever it is: a step makes new ones or hands the old ones on."""

    def __init__(self, state: State) -> None:
        self.state = _copied(state)
        self.phases = [tensor for tensor in flatten_state(self.state) if tensor.ndim == 0]

    def fill(self, state: State) -> None:
        """Take a state over."""
        self.write(state)

    def copy(self) -> State:
        """The state as it is now."""
        return _copied(self.state)

    def read(self) -> State:
        """All of it."""
        return self.state

    def write(self, state: State) -> None:
        """Copy what is new: a slow tier that did not step costs nothing."""
        for place, tensor in zip(flatten_state(self.state), flatten_state(state), strict=True):
            if tensor is not place:
                place.copy_(tensor)

    def host_counters(self) -> list[Tensor]:
        """The phases of its frames."""
        return self.phases


class RingBuffers(StaticState):
    """A state of queues (`Backbone.state_is_queues`), all in one tensor: what leaves a queue makes room for
    what joins it, and nothing else moves. One number on the GPU says where.

    A WaveNet's state, of ten layers in each of four stacks, is 4,092 tensors, and a step would copy as many.
    """

    def __init__(self, state: State) -> None:
        self.ring = torch.stack(flatten_state(state))  # (sum of the lengths, batch, d_residual)
        lengths = [len(queue) for queue in state]
        self.length = torch.tensor(lengths, device=self.ring.device)
        self.start = self.length.cumsum(0) - self.length
        self.time = torch.zeros(1, dtype=torch.long, device=self.ring.device)

    def fill(self, state: State) -> None:
        """Take a state over: each queue begins where its ring does."""
        torch.stack(flatten_state(state), out=self.ring)
        self.time.zero_()

    def copy(self) -> State:
        """The queues, oldest first."""
        rings, time = self.ring.clone().split(self.length.tolist()), int(self.time)
        return tuple(ring.roll(-(time % len(ring)), 0).unbind() for ring in rings)

    def read(self) -> State:
        """Of each queue the oldest, which is all that a step hears of it."""
        self.slots = self.start + self.time % self.length
        return tuple((oldest,) for oldest in self.ring.index_select(0, self.slots).unbind())

    def write(self, state: State) -> None:
        """The newest in place of the oldest."""
        self.ring.index_copy_(0, self.slots, torch.stack(flatten_state(state)))
        self.time.add_(1)


class StaticStep:
    """One sample of a model, as a graph can hold it: reads what stays where it is, writes there, and never
    waits.

    The random numbers, a row for each draw of each sample, are handed out beforehand; the codes are found
    afterwards in ``codes``, and in ``finite`` whether all logits were.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> model = WaveRNN(WaveRNNConfig(d_hidden=8))
    >>> step, generator = StaticStep(model, 1, SamplingConfig()), model.generator(0)
    >>> with torch.no_grad():
    ...     step.begin(model.initial_cache(1))
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
        self.code = _copied(code)
        queues = getattr(getattr(model, "backbone", None), "state_is_queues", False)
        self.memory: StaticState = RingBuffers(state) if queues else StaticBuffers(state)
        draws, device = _draws(model), code.device
        self.uniform = torch.zeros(PIECE, draws, batch_size, dtype=torch.float64, device=device)
        self.codes = code.new_zeros(PIECE, *code.shape)
        self.now = torch.zeros(1, dtype=torch.long, device=device)  # the sample that comes next
        self.finite = torch.ones((), dtype=torch.bool, device=device)

    def begin(self, cache: Cache) -> None:
        """Go on from a past."""
        self.code.copy_(cache[0])
        self.memory.fill(cache[1])
        self.finite.fill_(True)

    def fill_uniforms(self, samples: int, generator: torch.Generator | None) -> None:
        """Random numbers for some samples, all by one call. On a CPU they are those that `sample_token` asks
        for, one draw after the other; on a GPU they are not, since there each call begins a new block."""
        self.uniform[:samples].uniform_(generator=generator)
        self.now.zero_()

    def __call__(self) -> None:
        """The next sample."""
        uniform = iter(self.uniform.index_select(0, self.now)[0].unbind())
        sampler = functools.partial(self._sample_token, numbers=uniform.__next__)
        code, state = self.model.sample_next(self.code, self.memory.read(), sampler)
        self.memory.write(state)
        self.code.copy_(code)
        self.codes.index_copy_(0, self.now, code[None])
        self.now.add_(1)

    def host_counters(self) -> tuple[int, ...]:
        """What decides which kernels the next sample takes."""
        return tuple(map(int, self.memory.host_counters()))

    def set_host_counters(self, readings: tuple[int, ...]) -> None:
        """Move the clocks on, where a replay does all else."""
        for clock, reading in zip(self.memory.host_counters(), readings, strict=True):
            clock.fill_(reading)

    def _sample_token(
        self, logits: Float[Tensor, "batch levels"], numbers: Callable[[], Tensor]
    ) -> Int[Tensor, " batch"]:
        """As `sample_token`, except that logits that are not finite are noted and no code is out of range."""
        probability = token_probs(logits, self.sampling)
        self.finite.logical_and_(probability.isfinite().all())
        return inverse_cdf(probability, numbers()).clamp(max=probability.shape[-1] - 1)


class CapturedGraphs:
    """A static step as CUDA graphs, one for each reading of its clocks: called, it replays one.

    The graphs share their scratch memory, since no two run at once and none leaves anything there.
    """

    def __init__(self, step: StaticStep) -> None:
        self.step = step
        self.graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, tuple[int, ...]]] = {}
        with torch.cuda.device(step.code.device), parametrize.cached(), cached_kernels(step.model):
            # Kept for all steps, not made anew in each: the graphs read them where they are.
            self.weights, self.discretized = _normed_weights(step.model), _constants(step.model)
            self._warm_up()
            self._record()

    def __call__(self) -> None:
        """The next sample."""
        graph, after = self.graphs[self.step.host_counters()]
        graph.replay()
        self.step.set_host_counters(after)

    def _warm_up(self) -> None:
        """On a stream of its own, as PyTorch asks for, and up to where the clocks began."""
        stream, start = torch.cuda.Stream(), self.step.host_counters()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(ROUNDS):
                self._unrecorded()
                while self.step.host_counters() != start:
                    self._unrecorded()
        torch.cuda.current_stream().wait_stream(stream)

    def _unrecorded(self) -> None:
        self.step.now.zero_()  # a frame may be longer than a piece
        self.step()

    def _record(self) -> None:
        pool = torch.cuda.graph_pool_handle()
        while (before := self.step.host_counters()) not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            # "thread_local": what other threads ask of the GPU meanwhile, to pin memory say, is no error.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self.step()  # on the GPU nothing happens yet; the clocks on the CPU do move
            self.graphs[before] = graph, self.step.host_counters()


class Graphed(Engine):
    """A model whose samples are drawn by replaying CUDA graphs; in all else it is the model that it was made
    from. `graphed` makes it.

    Its weights are copied once: after training on, make another. The graphs are recorded at the first draw,
    and again for another size of batch or other sampling options. With ``record=False`` it makes the same
    steps one kernel after the other, on any device: the slow twin.
    """

    def __init__(self, model: Autoregressive, record: bool = True) -> None:
        _check_static(model)
        super().__init__(model)
        self.record = record
        self._new_step = functools.partial(StaticStep, _frozen(model))  # which does not count as a part
        self._recorded: tuple[tuple, StaticStep, Callable[[], None]] | None = None

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
        """The next ``length`` codes after a past, and the past after them, by static steps."""
        step, advance = self._ready(len(cache[0]), sampling)
        step.begin(cache)
        pieces = []
        with cached_kernels(step.model):
            for samples in in_pieces(length, progress):
                step.fill_uniforms(samples, generator)
                for _ in range(samples):
                    advance()
                if not bool(step.finite):
                    raise ValueError("logits must be finite: the state has blown up")
                pieces.append(step.codes[:samples].clone())
        codes = torch.cat(pieces).transpose(0, 1).contiguous()
        return codes, (step.code.clone(), step.memory.copy())

    def _ready(self, batch_size: int, sampling: SamplingConfig) -> tuple[StaticStep, Callable[[], None]]:
        """The static step for these settings, and what makes one."""
        settings = batch_size, sampling
        if self._recorded is None or self._recorded[0] != settings:
            self._recorded = None  # frees the memory of other graphs first
            step = self._new_step(*settings)
            self._recorded = settings, step, CapturedGraphs(step) if self.record else step
        return self._recorded[1:]


def graphed(model: Autoregressive) -> Graphed:
    """The same model for generating on a GPU, its steps replayed as CUDA graphs. A seed draws from the same
    distribution as the model itself does there, by other random numbers (`StaticStep.fill_uniforms`).

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> graphed(WaveRNN(WaveRNNConfig(d_hidden=32)))
    Traceback (most recent call last):
        ...
    ValueError: model must be on a CUDA device, got one on cpu

    Chapter: 7. Raises ValueError for a model that is not on a CUDA device, and for one whose state changes
    its shape from sample to sample, as a vocoder's does, or whose matrices are sparse.
    """
    if model.device.type != "cuda":
        raise ValueError(f"model must be on a CUDA device, got one on {model.device}")
    return Graphed(model)


def _check_static(model: Autoregressive) -> None:
    """Raise ValueError unless a step of the model can stay where it is."""
    name = type(model).__name__
    if isinstance(model, WaveRNN) and model.config.d_conditioning:
        raise ValueError(
            f"model must take no conditioning, got one with d_condition={model.config.d_conditioning}"
        )
    if not isinstance(model, AudioLM | WaveRNN):
        raise ValueError(f"model must be an AudioLM or a WaveRNN, got {name}")
    if any(isinstance(module, SparseLinear) for module in model.modules()):
        raise ValueError(f"model must be dense, got a {name} with sparse matrices")


def _frozen(model: Autoregressive) -> Autoregressive:
    """A copy that nobody trains on: graphs read its weights, and constants made of them, where they are."""
    model = copy.deepcopy(model).requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # a copy's weights no longer lie side by side
    return model


def _normed_weights(model: Autoregressive) -> list[Tensor]:
    """The weights under weight norm, multiplied out."""
    return [
        getattr(module, name)
        for module in model.modules()
        if parametrize.is_parametrized(module)
        for name in module.parametrizations  # type: ignore[union-attr]
    ]


def _constants(model: Autoregressive) -> list[Any]:
    """What steps read that is made of parameters alone: the discrete systems of all state spaces."""
    return [module.discretized() for module in model.modules() if isinstance(module, CachesKernels)]


def _draws(model: Autoregressive) -> int:
    """How many random numbers a sample takes."""
    draws = 0

    def count(logits: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return logits.argmax(-1)

    model.sample_next(*model.initial_cache(1), count)
    return draws


def _copied(state: State) -> State:
    return unflatten_state(
        (x.clone(memory_format=torch.contiguous_format) for x in flatten_state(state)), state
    )
