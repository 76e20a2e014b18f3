"""Options to compute a training step in less memory or less time (chapter 10)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sashimi_lib.ssm.kernel_cache import CachesKernels

Forward = Callable[..., Any]


@dataclass(frozen=True)
class ExecutionConfig:
    """Options that change the time and memory of a step, and its result by rounding only. A run may resume
    with others.

    Micro-batches of gradient accumulation share the kernels of state spaces, and noise that is sampled for
    the whole batch. Checkpointing of kernels saves most for short sequences: the memory of kernels hardly
    grows with the length, that of blocks does. ``torch.compile`` takes a minute, and skips state spaces,
    which have complex numbers.
    """

    grad_accumulation: int = 1  # Gradient accumulation: micro-batches that a batch is split into.
    activation_checkpointing: bool = False  # Activation checkpointing: store only the input of each block.
    kernel_checkpointing: bool = False  # Recompute the kernels of state spaces for their gradients.
    compile: bool = False  # Compile the blocks by torch.compile.

    def __post_init__(self) -> None:
        """Raise ValueError for fewer than one micro-batch."""
        if self.grad_accumulation < 1:
            raise ValueError(f"grad_accumulation must be at least 1, got {self.grad_accumulation}")


DEFAULT_EXECUTION = ExecutionConfig()


@contextmanager
def apply_execution(model: nn.Module, execution: ExecutionConfig) -> Iterator[None]:
    """Apply checkpointing and compilation to the blocks of a model inside ``with``.

    >>> from sashimi_lib.models.blocks import FeedForward
    >>> block = FeedForward(4)
    >>> x = torch.randn(1, 8, 4, requires_grad=True)
    >>> with apply_execution(block, ExecutionConfig(activation_checkpointing=True)):
    ...     y, _ = block(x)
    >>> torch.equal(y, block(x)[0])
    True

    Chapter: 10. Raises ValueError for ``activation_checkpointing`` or ``compile`` if the model has no blocks,
    and for ``kernel_checkpointing`` if it has no state spaces.
    """
    _check(model, execution)
    changed: list[nn.Module] = []
    try:
        for module in model.modules():
            forward = None
            if execution.compile and isinstance(module, CachesKernels):
                forward = torch.compiler.disable(module.forward)
            elif (execution.compile or execution.activation_checkpointing) and is_block(module):
                forward = partial(_dispatch, module.forward, _training_forward(module.forward, execution))
            if forward is not None:
                module.forward = forward
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def is_block(module: nn.Module) -> bool:
    """Return whether a module is a block of a deep model: its class has ``is_block = True``.

    >>> from sashimi_lib.models.blocks import FeedForward
    >>> is_block(FeedForward(4)), is_block(nn.GRU(4, 4))
    (True, False)

    Chapter: 10.
    """
    return getattr(module, "is_block", False)


def has_blocks(model: nn.Module) -> bool:
    """Return whether a model has blocks to compile or checkpoint. SampleRNN and WaveRNN have none.

    >>> from sashimi_lib.models.blocks import FeedForward
    >>> has_blocks(FeedForward(4)), has_blocks(nn.GRU(4, 4))
    (True, False)

    Chapter: 10.
    """
    return any(map(is_block, model.modules()))


def has_kernels(model: nn.Module) -> bool:
    """Return whether a model has state spaces, whose kernels can be checkpointed.

    >>> from sashimi_lib.ssm.s4 import S4
    >>> has_kernels(S4(4)), has_kernels(nn.GRU(4, 4))
    (True, False)

    Chapter: 10.
    """
    return any(isinstance(module, CachesKernels) for module in model.modules())


def _check(model: nn.Module, execution: ExecutionConfig) -> None:
    kind = type(getattr(model, "backbone", model)).__name__
    for name in ("activation_checkpointing", "compile"):
        if getattr(execution, name) and not has_blocks(model):
            raise ValueError(f"{name} must be False for a model without residual blocks, got a {kind}")
    if execution.kernel_checkpointing and not has_kernels(model):
        raise ValueError(f"kernel_checkpointing must be False for a model without state spaces, got a {kind}")


def _training_forward(forward: Forward, execution: ExecutionConfig) -> Forward:
    compiled = torch.compile(forward) if execution.compile else forward
    if not execution.activation_checkpointing:
        return compiled
    return partial(checkpoint, compiled, use_reentrant=False, preserve_rng_state=False)  # no dropout


def _dispatch(plain: Forward, training: Forward, *inputs: Any) -> Any:
    """Call the plain function without gradients: validation saves no activations, and would recompile."""
    return (training if torch.is_grad_enabled() else plain)(*inputs)
