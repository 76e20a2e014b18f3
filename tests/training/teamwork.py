"""Not a test: one process of several that train together, started by torchrun.

``torchrun --nproc-per-node 2 teamwork.py FOLDER`` leaves FOLDER/NAME.RANK.pt of each experiment: what was
learnt, and heard.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch

from sashimi_lib.autoregressive import AudioLM
from sashimi_lib.quantize import MuLaw
from sashimi_lib.training.batches import Pieces
from sashimi_lib.training.compute import Compute
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.recipes import DIGITS_DIFFUSION_SASHIMI
from sashimi_lib.training.step import Step
from sashimi_lib.training.team import ALONE, Team, joined
from sashimi_lib.training.trainer import train
from tests.training.backbones import BACKBONES

CONFIG = TrainingConfig(steps=7, batch_size=3, lr=0.01, clip_norm=1.0, ema=0.8, valid_every=4)
MORE = dataclasses.replace(CONFIG, batch_size=5)
PIECES = dataclasses.replace(CONFIG, truncate=21)
WHOLE, IN_PARTS, ANEW = Compute(), Compute(accumulate=2), Compute(recompute=True)
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
    name: str, team: Team = ALONE, checkpoint: Path | None = None, until: int | None = None
) -> dict[str, Any]:
    """What an experiment learns, and its history; it stops ``until`` so many steps are done."""
    backbone, config, compute = EXPERIMENTS[name]
    data, steps = sequences(), []
    torch.manual_seed(1)
    model = AudioLM(MuLaw(), backbone()).double()  # so that sums in another order cannot hide anything
    history = train(
        model, data[:7], config, checkpoint, valid=data[7:], progress=False, compute=compute, team=team,
        on_step=lambda step, loss: steps.append(step), stop=lambda: steps[-1] + 1 == until and team.leads,
    )  # fmt: skip
    return {**dataclasses.asdict(history), "model": model.state_dict(), "steps": steps}


def heard(team: Team) -> list[list[int]]:
    """Which sequences are heard in each of nine batches, by this process."""
    data = [torch.full((5 + number,), number) for number in range(7)]
    pieces = Pieces(data, CONFIG, 128, team)
    return [[int(row[0]) for row in next(pieces).sequence] for _ in range(9)]


def diffusion(team: Team = ALONE, compute: Compute = WHOLE) -> dict[str, Any]:
    """What a diffusion model learns, whose noise is drawn for the whole batch."""
    recipe = DIGITS_DIFFUSION_SASHIMI
    torch.manual_seed(0)
    words = [(0.1 * torch.randn(64 + n, dtype=torch.float64), n) for n in range(5)]
    config = dataclasses.replace(recipe.training, steps=3, batch_size=5, warmup=0)
    model = recipe.build(0).double()
    history = train(model, words, config, valid=words, progress=False, team=team, compute=compute)
    return {**dataclasses.asdict(history), "model": model.state_dict()}


def searched(team: Team) -> dict[str, bool]:
    """In which experiments gradients wait for a search of parameters that got none."""
    found = {}
    for name, (backbone, config, compute) in EXPERIMENTS.items():
        step = Step(AudioLM(MuLaw(), backbone()), config, compute, team)
        found[name] = step.parallel is not None and step.parallel.find_unused_parameters
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with joined(torch.device("cpu")) as team:
        for name in EXPERIMENTS:
            torch.save(run(name, team), folder / f"{name}.{team.rank}.pt")
        # One goes on from what a single process left, the other is left for one.
        shared = {name: folder / name / "run.pt" for name in ("taken_up", "left")}
        told = run("sashimi_in_pieces_and_parts", team, shared["taken_up"])
        torch.save(told, folder / f"taken_up.{team.rank}.pt")
        run("samplernn_in_pieces", team, shared["left"], until=STOPPED)
        torch.save(heard(team), folder / f"heard.{team.rank}.pt")
        for name, compute in (("diffusion", WHOLE), ("diffusion_in_parts", IN_PARTS)):
            torch.save(diffusion(team, compute), folder / f"{name}.{team.rank}.pt")
        torch.save(searched(team), folder / f"searched.{team.rank}.pt")
        assert team.told("news" if team.leads else None) == "news"
        few = dataclasses.replace(CONFIG, batch_size=1)
        try:
            train(AudioLM(MuLaw(), BACKBONES["sashimi"]()), sequences(), few, team=team, progress=False)
        except ValueError as error:
            torch.save(str(error), folder / f"refused.{team.rank}.pt")
