"""What it is worth to make kernels once a training step: for a batch in parts, and for blocks that are
computed anew."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

from timing import interleaved
from torch import Tensor, nn

from sashimi_lib.data.sequences import collate
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training import step as training_step
from sashimi_lib.training.config import DEFAULTS
from sashimi_lib.training.distributed import SINGLE_PROCESS
from sashimi_lib.training.execution import DEFAULT_EXECUTION, ExecutionConfig, apply_execution
from sashimi_lib.training.gradient_step import GradientStep

PARTS = 4


@contextmanager
def nothing_shared(_: nn.Module, activation_checkpointing: bool = False) -> Iterator[SimpleNamespace]:
    """In place of `sashimi_lib.ssm.kernel_cache.shared_kernels`: layers make kernels at each call, as they do
    outside of every scope."""
    yield SimpleNamespace(detached=nullcontext)


def step_of(
    model: AudioLM, codes: Tensor, execution: ExecutionConfig, shared: bool = True
) -> Callable[[], None]:
    """The gradients of a batch, computed in a way, with kernels made once or at each call."""
    step, piece = (
        GradientStep(model, DEFAULTS, execution, SINGLE_PROCESS),
        collate(list(codes), model.pad_value).to(model.device),
    )
    scope = training_step.shared_kernels if shared else nothing_shared

    def run() -> None:
        before, training_step.shared_kernels = training_step.shared_kernels, scope
        try:
            with apply_execution(model, execution):
                model.zero_grad()
                step(piece, None)
        finally:
            training_step.shared_kernels = before

    return run


def kernels_once(model: AudioLM, batch: Tensor, segment: Tensor, repeats: int) -> dict[str, float]:
    """Least seconds of the gradients of a batch in parts, and of a segment whose blocks are computed anew, in
    turns; how many times faster the first is with kernels made once, and what the second costs beyond a
    plain step."""
    accumulated, recomputed = (
        ExecutionConfig(grad_accumulation=PARTS),
        ExecutionConfig(activation_checkpointing=True),
    )
    everything = ExecutionConfig(activation_checkpointing=True, kernel_checkpointing=True)
    seconds = interleaved(
        {
            "parts_kernels_each": step_of(model, batch, accumulated, shared=False),
            "parts_kernels_once": step_of(model, batch, accumulated),
            "plain": step_of(model, segment, DEFAULT_EXECUTION),
            "recompute_kernels_too": step_of(model, segment, recomputed, shared=False),
            "recompute_kernels_once": step_of(model, segment, recomputed),
            "recompute_kernels_twice": step_of(model, segment, everything),
        },
        repeats,
        of=min,
    )
    return {f"{name}_seconds": value for name, value in seconds.items()} | {
        "parts": PARTS,
        "parts_times_faster": seconds["parts_kernels_each"] / seconds["parts_kernels_once"],
        "recompute_price_before": seconds["recompute_kernels_too"] / seconds["plain"] - 1,
        "recompute_price": seconds["recompute_kernels_once"] / seconds["plain"] - 1,
        "recompute_kernels_price": seconds["recompute_kernels_twice"] / seconds["plain"] - 1,
    }
