"""Which learning rate is best for each diffusion model of digits in a short run?

    python -m benchmarks.quality.diffusion_rates runs/data/digits_jackson

Trains the two recipes of `benchmarks.quality.diffusion` at four learning rates, for a few steps from a seed
that the comparison does not use, and takes the least validation loss. The recipes hold the best rate of each.
Writes ``book/results/diffusion_rates.json``. About eight minutes on one CPU thread.
"""

import argparse
import dataclasses
from pathlib import Path

import torch

from benchmarks.lib.corpus import LabelledAudio, load_digits
from benchmarks.lib.result import save_result
from benchmarks.quality.diffusion import SMALL
from sashimi_lib.training.recipes import DiffusionRecipe
from sashimi_lib.training.trainer import train

RATES, STEPS, SEED = (0.001, 0.002, 0.004, 0.008), 85, 9


def valid_loss(recipe: DiffusionRecipe, corpus: dict[str, LabelledAudio], rate: float, steps: int) -> float:
    """Validation loss after a short run at this learning rate, half of it for SSM parameters."""
    config = dataclasses.replace(
        recipe.training,
        steps=steps,
        lr=rate,
        ssm_lr=rate / 2,
        warmup=steps // 10,
        valid_every=steps,
        seed=SEED,
    )
    history = train(recipe.build(SEED), corpus["train"].pairs(), config, valid=corpus["valid"].pairs())
    return history.best[1]


def main() -> None:
    """Try all learning rates and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of each run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = next(iter(SMALL.values()))
    corpus = load_digits(options.folder, recipe.sample_rate, recipe.length)
    losses = {}
    for name, recipe in SMALL.items():
        losses[name] = [valid_loss(recipe, corpus, rate, options.steps) for rate in RATES]
        print(name, losses[name], flush=True)
    save_result(
        "diffusion_rates",
        question="The learning rate of each diffusion model of the contest: the best of four in a short run",
        config={"steps": options.steps, "rates": RATES},
        figures={
            "valid_loss": losses,
            "best": {name: RATES[row.index(min(row))] for name, row in losses.items()},
        },
        units={"valid_loss": "mean squared error of the network's prediction on the validation recordings"},
        repeats=1,
        seed=SEED,
        data=options.folder.name,
    )


if __name__ == "__main__":
    main()
