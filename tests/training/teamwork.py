"""Not a test: one process of several that train together, started by torchrun.

``torchrun --nproc-per-node 2 teamwork.py FOLDER`` leaves FOLDER/NAME.RANK.pt of each experiment: what was
learnt, and heard.
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
from sashimi_lib.training.execution import ExecutionConfig
from sashimi_lib.training.gradient_step import GradientStep
from sashimi_lib.training.recipes import DIGITS_DIFFUSION_SASHIMI
from sashimi_lib.training.trainer import train
from tests.training.backbones import BACKBONES

CONFIG = TrainingConfig(steps=7, batch_size=3, lr=0.01, clip_norm=1.0, ema=0.8, valid_every=4)
MORE = dataclasses.replace(CONFIG, batch_size=5)
PIECES = dataclasses.replace(CONFIG, tbptt_length=21)
WHOLE, IN_PARTS, ANEW = (
    ExecutionConfig(),
    ExecutionConfig(grad_accumulation=2),
    ExecutionConfig(activation_checkpointing=True),
)
EXPERIMENTS = {
    "sashimi": (BACKBONES["sashimi"], CONFIG, WHOLE),
    "sashimi_in_pieces_and_parts": (BACKBONES["sashimi"], PIECES, IN_PARTS),
    "wavenet_computed_anew": (BACKBONES["wavenet"], CONFIG, ANEW),
    "wavenet_in_parts": (BACKBONES["wavenet"], MORE, IN_PARTS),
    "samplernn_in_pieces": (BACKBONES["samplernn"], PIECES, WHOLE),
}
STOPPED = 5  # steps of a run that another number of processes takes up


def sequences() -> list[torch.Tensor]:
    """Ten sequences, none as long as the next."""
    t = torch.arange(80)
    codes = MuLaw().encode(0.5 * torch.sin(0.3 * (t + 2 * torch.arange(10)[:, None])))
    return [row[: 80 - 6 * n] for n, row in enumerate(codes)]


def run(
    name: str,
    distributed: DistributedContext = SINGLE_PROCESS,
    checkpoint: Path | None = None,
    until: int | None = None,
) -> dict[str, Any]:
    """What an experiment learns, and its history; it stops ``until`` so many steps are done."""
    backbone, config, execution = EXPERIMENTS[name]
    data, steps = sequences(), []
    torch.manual_seed(1)
    model = AudioLM(MuLaw(), backbone()).double()  # so that sums in another order cannot hide anything
    history = train(
        model, data[:7], config, checkpoint, valid=data[7:], progress=False, execution=execution, distributed=distributed,
        on_step=lambda step, loss: steps.append(step), stop=lambda: steps[-1] + 1 == until and distributed.is_main_process,
    )  # fmt: skip
    return {**dataclasses.asdict(history), "model": model.state_dict(), "steps": steps}


def heard(distributed: DistributedContext) -> list[list[int]]:
    """Which sequences are heard in each of nine batches, by this process."""
    data = [torch.full((5 + number,), number) for number in range(7)]
    pieces = DataStream(data, CONFIG, 128, distributed)
    return [[int(row[0]) for row in next(pieces).sequence] for _ in range(9)]


def diffusion(
    distributed: DistributedContext = SINGLE_PROCESS, execution: ExecutionConfig = WHOLE
) -> dict[str, Any]:
    """What a diffusion model learns, whose noise is drawn for the whole batch."""
    recipe = DIGITS_DIFFUSION_SASHIMI
    torch.manual_seed(0)
    words = [(0.1 * torch.randn(64 + n, dtype=torch.float64), n) for n in range(5)]
    config = dataclasses.replace(recipe.training, steps=3, batch_size=5, warmup=0)
    model = recipe.build(0).double()
    history = train(
        model, words, config, valid=words, progress=False, distributed=distributed, execution=execution
    )
    return {**dataclasses.asdict(history), "model": model.state_dict()}


def searched(distributed: DistributedContext) -> dict[str, bool]:
    """In which experiments gradients wait for a search of parameters that got none."""
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
        # One goes on from what a single process left, the other is left for one.
        shared = {name: folder / name / "run.pt" for name in ("taken_up", "left")}
        told = run("sashimi_in_pieces_and_parts", distributed, shared["taken_up"])
        torch.save(told, folder / f"taken_up.{distributed.rank}.pt")
        run("samplernn_in_pieces", distributed, shared["left"], until=STOPPED)
        torch.save(heard(distributed), folder / f"heard.{distributed.rank}.pt")
        for name, execution in (("diffusion", WHOLE), ("diffusion_in_parts", IN_PARTS)):
            torch.save(diffusion(distributed, execution), folder / f"{name}.{distributed.rank}.pt")
        torch.save(searched(distributed), folder / f"searched.{distributed.rank}.pt")
        assert distributed.broadcast_object("news" if distributed.is_main_process else None) == "news"
        few = dataclasses.replace(CONFIG, batch_size=1)
        try:
            train(
                AudioLM(MuLaw(), BACKBONES["sashimi"]()),
                sequences(),
                few,
                distributed=distributed,
                progress=False,
            )
        except ValueError as error:
            torch.save(str(error), folder / f"refused.{distributed.rank}.pt")
