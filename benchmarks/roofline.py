"""What a training step computes and moves, operator by operator; and from that, the least time it can take on
a machine of which only the peaks are known.

Nothing is computed to find out: tensors are fakes that have a shape and no numbers, so a step of any size is
counted in seconds. An operator can be no faster than its arithmetic at the machine's peak, nor than the
reading of its inputs and the writing of its outputs at the bandwidth of its memory: the roofline. The step
cannot be faster than the sum, run operator by operator. Left out: the launch of each operator, which a small
one waits for; how far each stays below the peaks; caches, which can beat the bandwidth; and fusion by a
compiler, which saves reading and writing.
"""

import itertools
import math
import weakref
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from devices import Device
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

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
    """One operator: its name, the type of its numbers, its floating-point operations, the bytes it moves."""

    name: str
    dtype: torch.dtype
    flops: float
    moved: int

    @property
    def rounds(self) -> bool:
        """Whether tf32 applies: to the products of layers, not to FFTs, nor to a kernel's products, which are
        of batches of matrices and stay exact."""
        return self.dtype == torch.float32 and self.name.split(".")[0] in ("mm", "addmm", "convolution")


class Count(NamedTuple):
    """The operators of a step, and the most bytes that its tensors take at once."""

    operators: list[Operator]
    peak_bytes: int

    @property
    def flops(self) -> float:
        """Floating-point operations of matrix products, convolutions and FFTs; no others are counted."""
        return sum(operator.flops for operator in self.operators)

    @property
    def moved(self) -> int:
        """Bytes that are read and written."""
        return sum(operator.moved for operator in self.operators)


def fft_flops(transforms: Tensor, n: int) -> float:
    """``5/2 n log2 n`` for each real transform of ``n`` samples, there or back; all lie in ``transforms``."""
    return transforms.numel() / n * 2.5 * n * math.log2(n)


class Ledger(TorchDispatchMode):
    """Notes every operator that runs inside ``with``, and how much memory tensors made there take.

    >>> with Ledger() as ledger:
    ...     y = torch.ones(4, 8) @ torch.ones(8, 2)
    >>> ledger.operators[-1].flops, ledger.operators[-1].moved, ledger.held
    (128, 224, 32)
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Operator] = []
        self.held = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        out = func(*args, **(kwargs or {}))
        inputs, outputs = (_tensors(x) for x in ((args, kwargs), out))
        if outputs:
            for x in outputs:
                self.watch(x)
            known = {_storage(x) for x in inputs}
            if func._schema.is_mutable or any(_storage(x) not in known for x in outputs):  # more than a view
                self.operators.append(_operator(func, args, kwargs or {}, out, inputs, outputs))
        return out

    def watch(self, x: Tensor) -> None:
        """Count the memory of a tensor from now on until it is freed."""
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._storages:
            self._storages.add(key)
            self.held += size
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.held -= size


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
    """What it occupies: an expanded tensor no more than what it was expanded from."""
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


@cache
def step_count(
    recipe: Recipe, precision: str = "float32", execution: ExecutionConfig = DEFAULT_EXECUTION
) -> Count:
    """What one training step of a recipe computes and moves, forward, backward and in the optimizer.

    Compilation is not counted: of ``execution``, recomputation alone makes a difference.
    """
    model, training = recipe.build(0), recipe.training
    mode, ledger = FakeTensorMode(), Ledger()
    _disguise(model, mode)
    with mode:
        for x in (*model.parameters(), *model.buffers()):
            ledger.watch(x)
        codes = torch.zeros(training.batch_size, training.tbptt_length or recipe.length, dtype=torch.long)
        optimizer = new_optimizer(model, training)
        with ledger, apply_execution(model, execution):
            _fill(model, optimizer)
            ledger.operators.clear()
            _step(model, optimizer, codes, training, precision, execution.kernel_checkpointing)
    return Count(ledger.operators, ledger.peak)


def _disguise(model: nn.Module, mode: FakeTensorMode) -> None:
    """Fakes in place of all weights and constants."""
    for module in model.modules():
        for name, x in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(mode.from_tensor(x.detach()), x.requires_grad))
        for name, x in module.named_buffers(recurse=False):
            setattr(module, name, mode.from_tensor(x))


def _fill(model: nn.Module, optimizer: Optimizer) -> None:
    """Have the optimizer make its state."""
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()


def _step(
    model: AudioLM,
    optimizer: Optimizer,
    codes: Tensor,
    config: TrainingConfig,
    precision: str,
    kernel_checkpointing: bool,
) -> None:
    """A step as training makes it, without the checks, which want numbers."""
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
    """The sum over operators of what takes longer: arithmetic at ``peak[precision]`` operations a second, or
    memory at ``bandwidth`` bytes a second. With ``tf32``, products of float32 matrices run at that peak.

    >>> double = Operator("mm", torch.float32, flops=100.0, moved=10)
    >>> least_seconds([double, double._replace(flops=0.0)], {"float32": 10.0}, bandwidth=2.0)
    15.0
    """

    def rate(operator: Operator) -> float:
        if tf32 and operator.rounds:
            return peak["tf32"]
        return peak[PRECISIONS[operator.dtype]] if operator.flops else math.inf

    return sum(max(op.flops / rate(op), op.moved / bandwidth) for op in operators)


def counted(recipe: Recipe) -> list[dict[str, object]]:
    """What a step of a recipe computes, moves and keeps: the same on any machine. To recompute means blocks
    and kernels, of a model that has some."""
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
                "bytes_moved": count.moved,
                "operators": len(count.operators),
                "mebibytes": count.peak_bytes / 2**20,
            }
        )
    return rows


def computed(recipe: Recipe, machine: Device) -> dict[str, dict[str, object]]:
    """At least so long a step takes on a machine, and a whole run of the recipe, by precision."""
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
