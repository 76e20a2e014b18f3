"""What it is worth to make kernels once a training step: for a batch in parts, and for blocks that are
computed anew."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

from timing import interleaved
from torch import Tensor, nn

from sashimi_lib.autoregressive import AudioLM
from sashimi_lib.training import step as training_step
from sashimi_lib.training.batches import collate
from sashimi_lib.training.compute import PLAIN, Compute, computed_by
from sashimi_lib.training.config import DEFAULTS
from sashimi_lib.training.step import Step
from sashimi_lib.training.team import ALONE

PARTS = 4


@contextmanager
def nothing_shared(_: nn.Module, recompute: bool = False) -> Iterator[SimpleNamespace]:
    """In place of `sashimi_lib.ssm.cache.shared_kernels`: layers make kernels at each call, as they do
    outside of every scope."""
    yield SimpleNamespace(detached=nullcontext)


def step_of(model: AudioLM, codes: Tensor, compute: Compute, shared: bool = True) -> Callable[[], None]:
    """The gradients of a batch, computed in a way, with kernels made once or at each call."""
    step, piece = Step(model, DEFAULTS, compute, ALONE), collate(list(codes), model.silence).to(model.device)
    scope = training_step.shared_kernels if shared else nothing_shared

    def run() -> None:
        before, training_step.shared_kernels = training_step.shared_kernels, scope
        try:
            with computed_by(model, compute):
                model.zero_grad()
                step(piece, None)
        finally:
            training_step.shared_kernels = before

    return run


def kernels_once(model: AudioLM, batch: Tensor, segment: Tensor, repeats: int) -> dict[str, float]:
    """Least seconds of the gradients of a batch in parts, and of a segment whose blocks are computed anew, in
    turns; how many times faster the first is with kernels made once, and what the second costs beyond a
    plain step."""
    accumulated, recomputed = Compute(accumulate=PARTS), Compute(recompute=True)
    everything = Compute(recompute=True, recompute_kernels=True)
    seconds = interleaved(
        {
            "parts_kernels_each": step_of(model, batch, accumulated, shared=False),
            "parts_kernels_once": step_of(model, batch, accumulated),
            "plain": step_of(model, segment, PLAIN),
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
