"""The operators of a training step, their arithmetic and memory traffic; and from these the least time of a
step on any machine, by the roofline model.

Tensors are fake (shapes without data), so a step of any size is counted in seconds. An operator takes at
least its arithmetic at the machine's peak, and at least the reading of its inputs and writing of its outputs
at the memory's bandwidth. The step takes at least the sum over operators. Not modelled: launch overhead, how
far real operators stay below the peaks, caches, and fusion by a compiler.
"""

import itertools
import math
import weakref
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.lib.devices import Device
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.autoregressive import shift_right
from sashimi_lib.ssm.kernel_cache import shared_kernels
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.execution import (
    DEFAULT_EXECUTION,
    ExecutionConfig,
    apply_execution,
    has_blocks,
    has_kernels,
)
from sashimi_lib.training.optimizer import new_optimizer
from sashimi_lib.training.recipes import Recipe

aten = torch.ops.aten
REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
PRECISIONS = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16"}


class Operator(NamedTuple):
    """One operator: name, dtype, floating-point operations, and bytes read and written."""

    name: str
    dtype: torch.dtype
    flops: float
    bytes_moved: int

    @property
    def uses_tf32(self) -> bool:
        """Whether TF32 applies: to matrix products and convolutions of layers, not to FFTs, nor to the
        batched products of SSM kernels, which run in full precision."""
        return self.dtype == torch.float32 and self.name.split(".")[0] in ("mm", "addmm", "convolution")


class StepCount(NamedTuple):
    """The operators of a step, and the peak memory of its tensors in bytes."""

    operators: list[Operator]
    peak_bytes: int

    @property
    def flops(self) -> float:
        """Floating-point operations of matrix products, convolutions and FFTs; others are not counted."""
        return sum(operator.flops for operator in self.operators)

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return sum(operator.bytes_moved for operator in self.operators)


def fft_flops(transforms: Tensor, n: int) -> float:
    """``5/2 n log2 n`` for each real transform of ``n`` samples, forward or inverse, in ``transforms``."""
    return transforms.numel() / n * 2.5 * n * math.log2(n)


class OperatorRecorder(TorchDispatchMode):
    """Records every operator that runs inside ``with``, and the memory of the tensors created there.

    >>> with OperatorRecorder() as recorder:
    ...     y = torch.ones(4, 8) @ torch.ones(8, 2)
    >>> recorder.operators[-1].flops, recorder.operators[-1].bytes_moved, recorder.allocated
    (128, 224, 32)
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Operator] = []
        self.allocated = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        out = func(*args, **(kwargs or {}))
        inputs, outputs = (_tensors(x) for x in ((args, kwargs), out))
        if outputs:
            for x in outputs:
                self.track(x)
            known = {_storage(x) for x in inputs}
            if func._schema.is_mutable or any(_storage(x) not in known for x in outputs):  # not just a view
                self.operators.append(_operator(func, args, kwargs or {}, out, inputs, outputs))
        return out

    def track(self, x: Tensor) -> None:
        """Count the memory of a tensor until it is freed."""
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._storages:
            self._storages.add(key)
            self.allocated += size
            self.peak = max(self.peak, self.allocated)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.allocated -= size


def _operator(  # type: ignore[no-untyped-def]
    func, args, kwargs, out, inputs: list[Tensor], outputs: list[Tensor]
) -> Operator:
    flops = 0.0
    if func._overloadpacket in (aten._fft_r2c, aten._fft_c2r):
        real = inputs[0] if func._overloadpacket is aten._fft_r2c else outputs[0]
        flops = fft_flops(real, real.shape[args[1][-1]])
    elif func._overloadpacket in flop_registry:
        flops = flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
    dtype = (inputs or outputs)[0].dtype
    return Operator(func.__name__, REAL.get(dtype, dtype), flops, sum(map(_bytes, inputs + outputs)))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _bytes(x: Tensor) -> int:
    """Memory of a tensor; an expanded one counts no more than its storage."""
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


@cache
def step_count(
    recipe: Recipe, precision: str = "float32", execution: ExecutionConfig = DEFAULT_EXECUTION
) -> StepCount:
    """Count one training step of a recipe: forward, backward and optimizer.

    Of ``execution`` only recomputation (activation checkpointing) makes a difference; compilation is ignored.
    """
    model, training = recipe.build(0), recipe.training
    mode, recorder = FakeTensorMode(), OperatorRecorder()
    _make_fake(model, mode)
    with mode:
        for x in (*model.parameters(), *model.buffers()):
            recorder.track(x)
        codes = torch.zeros(training.batch_size, training.tbptt_length or recipe.length, dtype=torch.long)
        optimizer = new_optimizer(model, training)
        with recorder, apply_execution(model, execution):
            init_optimizer_state(model, optimizer)
            recorder.operators.clear()
            training_step(model, optimizer, codes, training, precision, execution.kernel_checkpointing)
    return StepCount(recorder.operators, recorder.peak)


def _make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace all parameters and buffers by fake tensors."""
    for module in model.modules():
        for name, x in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(mode.from_tensor(x.detach()), x.requires_grad))
        for name, x in module.named_buffers(recurse=False):
            setattr(module, name, mode.from_tensor(x))


def init_optimizer_state(model: nn.Module, optimizer: Optimizer) -> None:
    """Let the optimizer allocate its state."""
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()


def training_step(
    model: AudioLM,
    optimizer: Optimizer,
    codes: Tensor,
    config: TrainingConfig,
    precision: str,
    kernel_checkpointing: bool,
) -> None:
    """One training step without the checks for finite values, which need real data."""
    silence, state = model.initial_cache(len(codes))
    optimizer.zero_grad()
    with shared_kernels(model, kernel_checkpointing):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            y, _ = model.features(shift_right(codes, silence), state if config.tbptt_length else None)
            loss = -model.head.log_probability(y, codes).mean()
        loss.backward()
    optimizer.step()


def least_seconds(
    operators: list[Operator], peak: Mapping[str, float], bandwidth: float, tf32: bool = False
) -> float:
    """The roofline bound: the sum over operators of the longer of arithmetic, at ``peak[precision]``
    operations per second, and memory traffic, at ``bandwidth`` bytes per second. With ``tf32``, float32
    products of layers run at that peak.

    >>> double = Operator("mm", torch.float32, flops=100.0, bytes_moved=10)
    >>> least_seconds([double, double._replace(flops=0.0)], {"float32": 10.0}, bandwidth=2.0)
    15.0
    """

    def rate(operator: Operator) -> float:
        if tf32 and operator.uses_tf32:
            return peak["tf32"]
        return peak[PRECISIONS[operator.dtype]] if operator.flops else math.inf

    return sum(max(op.flops / rate(op), op.bytes_moved / bandwidth) for op in operators)


def count_variants(recipe: Recipe) -> list[dict[str, object]]:
    """Operations, memory traffic and peak memory of a step, by precision, with and without recomputation of
    blocks and SSM kernels. They are the same on any machine."""
    rows, model = [], recipe.build(0)
    for precision, activation_checkpointing in itertools.product(("float32", "bfloat16"), (False, True)):
        execution = ExecutionConfig(
            activation_checkpointing=activation_checkpointing and has_blocks(model),
            kernel_checkpointing=activation_checkpointing and has_kernels(model),
        )
        count = step_count(recipe, precision, execution)
        rows.append(
            {
                "precision": precision,
                "activation_checkpointing": activation_checkpointing,
                "flops": count.flops,
                "bytes_moved": count.bytes_moved,
                "operators": len(count.operators),
                "mebibytes": count.peak_bytes / 2**20,
            }
        )
    return rows


def lower_bounds(recipe: Recipe, machine: Device) -> dict[str, dict[str, object]]:
    """Lower bounds on a machine, by precision: of a step's time, and of hours and dollars of a whole run."""
    figures: dict[str, dict[str, object]] = {}
    for precision in [name for name in machine.peak if name != "float64"]:
        count = step_count(recipe, "bfloat16" if precision == "bfloat16" else "float32")
        seconds = least_seconds(count.operators, machine.peak, machine.bandwidth, precision == "tf32")
        hours = recipe.training.steps * seconds / 3600
        dollars = machine.dollars_per_hour
        figures[precision] = {
            "seconds_per_step": seconds,
            "samples_per_second": recipe.samples_per_step / seconds,
            "hours": hours,
            "dollars": None if dollars is None else dollars * hours,
            "mebibytes": count.peak_bytes / 2**20,
            "fits": count.peak_bytes < machine.memory,
        }
    return figures
