"""What it saves to compute SSM kernels once a training step: with gradient accumulation, and with activation
checkpointing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

from torch import Tensor, nn

from benchmarks.lib.timing import interleaved
from sashimi_lib.data.sequences import collate
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training import gradient_step as training_step
from sashimi_lib.training.config import DEFAULTS
from sashimi_lib.training.distributed import SINGLE_PROCESS
from sashimi_lib.training.execution import DEFAULT_EXECUTION, ExecutionConfig, apply_execution
from sashimi_lib.training.gradient_step import GradientStep

PARTS = 4  # micro-batches of an accumulated batch


@contextmanager
def unshared_kernels(_: nn.Module, activation_checkpointing: bool = False) -> Iterator[SimpleNamespace]:
    """A replacement for `sashimi_lib.ssm.kernel_cache.shared_kernels` in which layers compute kernels at each
    call."""
    yield SimpleNamespace(detached=nullcontext)


def gradient_step(
    model: AudioLM, codes: Tensor, execution: ExecutionConfig, shared: bool = True
) -> Callable[[], None]:
    """A function that computes the gradients of a batch, with kernels computed once or at each call."""
    step, piece = (
        GradientStep(model, DEFAULTS, execution, SINGLE_PROCESS),
        collate(list(codes), model.pad_value).to(model.device),
    )
    scope = training_step.shared_kernels if shared else unshared_kernels

    def run() -> None:
        before, training_step.shared_kernels = training_step.shared_kernels, scope
        try:
            with apply_execution(model, execution):
                model.zero_grad()
                step(piece, None)
        finally:
            training_step.shared_kernels = before

    return run


def time_kernel_reuse(model: AudioLM, batch: Tensor, segment: Tensor, repeats: int) -> dict[str, float]:
    """Least seconds of a forward and backward pass: of ``batch`` with gradient accumulation, and of
    ``segment`` with activation checkpointing; each with kernels computed once a step and at each call.

    ``parts_times_faster`` is the speed-up of the first, and a ``price`` the extra time of checkpointing,
    relative to a plain step.
    """
    accumulated, recomputed = (
        ExecutionConfig(grad_accumulation=PARTS),
        ExecutionConfig(activation_checkpointing=True),
    )
    everything = ExecutionConfig(activation_checkpointing=True, kernel_checkpointing=True)
    seconds = interleaved(
        {
            "parts_kernels_each": gradient_step(model, batch, accumulated, shared=False),
            "parts_kernels_once": gradient_step(model, batch, accumulated),
            "plain": gradient_step(model, segment, DEFAULT_EXECUTION),
            "recompute_kernels_too": gradient_step(model, segment, recomputed, shared=False),
            "recompute_kernels_once": gradient_step(model, segment, recomputed),
            "recompute_kernels_twice": gradient_step(model, segment, everything),
        },
        repeats,
        reduce=min,
    )
    return {f"{name}_seconds": value for name, value in seconds.items()} | {
        "parts": PARTS,
        "parts_times_faster": seconds["parts_kernels_each"] / seconds["parts_kernels_once"],
        "recompute_price_before": seconds["recompute_kernels_too"] / seconds["plain"] - 1,
        "recompute_price": seconds["recompute_kernels_once"] / seconds["plain"] - 1,
        "recompute_kernels_price": seconds["recompute_kernels_twice"] / seconds["plain"] - 1,
    }
