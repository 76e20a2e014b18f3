"""At which learning rate does each diffusion model for digits learn most in a short run?

    python benchmarks/diffusion_rates.py runs/data/digits_jackson

The two recipes of `benchmarks/diffusion.py`, each at four rates for a few steps from one seed that the
contest does not use, judged by the validation recordings. The recipes hold the best of each. Writes
``book/results/diffusion_rates.json``. About eight minutes on one CPU thread.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from corpus import Sounds, sounds
from diffusion import SMALL
from result import save_result

from sashimi_lib.training.recipes import DiffusionRecipe
from sashimi_lib.training.trainer import train

RATES, STEPS, SEED = (0.001, 0.002, 0.004, 0.008), 85, 9


def valid_loss(recipe: DiffusionRecipe, corpus: dict[str, Sounds], rate: float, steps: int) -> float:
    """After a short run at this rate, half of it for the state spaces."""
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
    """Try all, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    like = next(iter(SMALL.values()))
    corpus = sounds(options.folder, like.sample_rate, like.length)
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
        units={"valid_loss": "mean squared error of what the network says of the validation recordings"},
        repeats=1,
        seed=SEED,
        data=options.folder.name,
    )


if __name__ == "__main__":
    main()
