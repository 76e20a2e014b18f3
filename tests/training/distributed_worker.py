"""A script for test_distributed: one of the processes that torchrun starts.

``torchrun --nproc-per-node 2 distributed_worker.py FOLDER`` writes the results of each experiment to
FOLDER/NAME.RANK.pt.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training.batches import DataStream
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.distributed import SINGLE_PROCESS, DistributedContext, init_distributed
from sashimi_lib.training.execution import DEFAULT_EXECUTION, ExecutionConfig
from sashimi_lib.training.gradient_step import GradientStep
from sashimi_lib.training.recipes import DIGITS_DIFFUSION_SASHIMI
from sashimi_lib.training.trainer import train
from tests.training.backbones import BACKBONES

CONFIG = TrainingConfig(steps=7, batch_size=3, lr=0.01, clip_norm=1.0, ema=0.8, valid_every=4)
LARGER_BATCH = dataclasses.replace(CONFIG, batch_size=5)
TBPTT = dataclasses.replace(CONFIG, tbptt_length=21)
ACCUMULATION = ExecutionConfig(grad_accumulation=2)
CHECKPOINTING = ExecutionConfig(activation_checkpointing=True)
EXPERIMENTS = {
    "sashimi": (BACKBONES["sashimi"], CONFIG, DEFAULT_EXECUTION),
    "sashimi_tbptt_accumulation": (BACKBONES["sashimi"], TBPTT, ACCUMULATION),
    "wavenet_checkpointing": (BACKBONES["wavenet"], CONFIG, CHECKPOINTING),
    "wavenet_accumulation": (BACKBONES["wavenet"], LARGER_BATCH, ACCUMULATION),
    "samplernn_tbptt": (BACKBONES["samplernn"], TBPTT, DEFAULT_EXECUTION),
}
STOP_AT = 5  # steps of a run that resumes with another number of processes


def sequences() -> list[torch.Tensor]:
    """Ten sequences of different lengths."""
    t = torch.arange(80)
    codes = MuLaw().encode(0.5 * torch.sin(0.3 * (t + 2 * torch.arange(10)[:, None])))
    return [row[: 80 - 6 * n] for n, row in enumerate(codes)]


def run(
    name: str,
    distributed: DistributedContext = SINGLE_PROCESS,
    checkpoint: Path | None = None,
    until: int | None = None,
) -> dict[str, Any]:
    """Train one experiment, for at most ``until`` steps; return its history, weights and step numbers."""
    backbone, config, execution = EXPERIMENTS[name]
    data, steps = sequences(), []
    torch.manual_seed(1)
    model = AudioLM(MuLaw(), backbone()).double()  # so that rounding is negligible
    history = train(
        model, data[:7], config, checkpoint, valid=data[7:], progress=False, execution=execution,
        distributed=distributed, on_step=lambda step, loss: steps.append(step),
        stop=lambda: steps[-1] + 1 == until and distributed.is_main_process,
    )  # fmt: skip
    return {**dataclasses.asdict(history), "model": model.state_dict(), "steps": steps}


def loaded_sequences(distributed: DistributedContext) -> list[list[int]]:
    """Return the indices of the sequences that this process loads in each of nine batches."""
    data = [torch.full((5 + index,), index) for index in range(7)]
    stream = DataStream(data, CONFIG, 128, distributed)
    return [[int(row[0]) for row in next(stream).sequence] for _ in range(9)]


def diffusion(
    distributed: DistributedContext = SINGLE_PROCESS, execution: ExecutionConfig = DEFAULT_EXECUTION
) -> dict[str, Any]:
    """Train a diffusion model, whose noise is sampled for the whole batch; return its history and weights."""
    recipe = DIGITS_DIFFUSION_SASHIMI
    torch.manual_seed(0)
    words = [(0.1 * torch.randn(64 + n, dtype=torch.float64), n) for n in range(5)]
    config = dataclasses.replace(recipe.training, steps=3, batch_size=5, warmup=0)
    model = recipe.build(0).double()
    history = train(
        model, words, config, valid=words, progress=False, distributed=distributed, execution=execution
    )
    return {**dataclasses.asdict(history), "model": model.state_dict()}


def finds_unused_parameters(distributed: DistributedContext) -> dict[str, bool]:
    """Return by experiment whether DistributedDataParallel searches for unused parameters."""
    found = {}
    for name, (backbone, config, execution) in EXPERIMENTS.items():
        step = GradientStep(AudioLM(MuLaw(), backbone()), config, execution, distributed)
        found[name] = step.parallel is not None and step.parallel.find_unused_parameters
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with init_distributed(torch.device("cpu")) as distributed:
        for name in EXPERIMENTS:
            torch.save(run(name, distributed), folder / f"{name}.{distributed.rank}.pt")
        # One resumes the run of a single process, the other is resumed by a single process.
        shared = {name: folder / name / "run.pt" for name in ("resumed", "stopped")}
        result = run("sashimi_tbptt_accumulation", distributed, shared["resumed"])
        torch.save(result, folder / f"resumed.{distributed.rank}.pt")
        run("samplernn_tbptt", distributed, shared["stopped"], until=STOP_AT)
        torch.save(loaded_sequences(distributed), folder / f"loaded.{distributed.rank}.pt")
        for name, execution in (("diffusion", DEFAULT_EXECUTION), ("diffusion_accumulation", ACCUMULATION)):
            torch.save(diffusion(distributed, execution), folder / f"{name}.{distributed.rank}.pt")
        torch.save(finds_unused_parameters(distributed), folder / f"finds_unused.{distributed.rank}.pt")
        assert distributed.broadcast_object("message" if distributed.is_main_process else None) == "message"
        small_batch = dataclasses.replace(CONFIG, batch_size=1)
        try:
            train(
                AudioLM(MuLaw(), BACKBONES["sashimi"]()),
                sequences(),
                small_batch,
                distributed=distributed,
                progress=False,
            )
        except ValueError as error:
            torch.save(str(error), folder / f"error.{distributed.rank}.pt")
