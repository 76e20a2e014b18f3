"""How much past is worth how many bits: one SaShiMi, trained on segments of different lengths.

    python benchmarks/context.py runs/data/piano --sample-rate 16000
    python benchmarks/context.py runs/data/piano --full --minutes 8

The folder holds ``train`` and ``test``, whole recordings in each. Every length hears the same number of
samples a step: shorter segments come more at a time. All train for equally many steps, once for few and once
for many; or with ``--minutes``, which they share evenly, for equally long. All are judged alike, on excerpts
longer than any segment. The small model, on one CPU thread, takes about ten minutes; ``--full`` is the
paper's, on its segments of 1, 2, 4 and 8 seconds (table 3), for a GPU. Writes ``book/results/context.json``,
or ``context_full.json``.
"""

import argparse
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from autoregressive import learn, seconds_per_step
from corpus import Corpus, Excerpts, excerpts, pieces, recordings
from result import Parts, save_result
from verdict import UNIT, verdict

from sashimi_lib.evaluation.likelihood import clip_bits
from sashimi_lib.training.recipes import SMALL_SASHIMI, YOUTUBEMIX_SASHIMI_8, Recipe


@dataclass(frozen=True)
class Setting:
    """A recipe, times which its learning rates are used, the lengths of its segments in samples, how many
    seconds each judged excerpt has, and how many samples all of them have at most."""

    recipe: Recipe
    factor: float
    lengths: tuple[int, ...]
    seconds: int
    judged: int

    def recipes(self) -> dict[str, Recipe]:
        """The recipe by length, with as many samples a step as the longest segment has."""
        by_length = {}
        for length in self.lengths:
            training = replace(self.recipe.training, batch_size=max(self.lengths) // length)
            by_length[str(length)] = replace(self.recipe, length=length, training=training)
        return by_length


SMALL = Setting(
    SMALL_SASHIMI,
    factor=2.0,  # as the comparison of models chose
    lengths=(512, 2_048, 8_192),
    seconds=4,
    judged=400_000,
)
FULL = Setting(
    YOUTUBEMIX_SASHIMI_8, factor=1.0, lengths=(16_000, 32_000, 64_000, 128_000), seconds=16, judged=8_000_000
)


def equal_time(setting: Setting, corpus: Corpus, seconds: float) -> dict[str, int]:
    """How many steps each length makes in so many seconds."""
    timed = seconds_per_step(setting.recipes(), corpus)
    return {length: max(1, int(seconds / min(each))) for length, each in timed.items()}


def judged(
    setting: Setting, length: str, corpus: Corpus, test: Excerpts, steps: int, seed: int
) -> dict[str, Any]:
    """What the test says after so many steps on segments of one length."""
    recipe = setting.recipes()[length]
    model = learn(recipe, pieces(corpus["train"], recipe.length), steps, setting.factor, seed)
    return verdict(clip_bits(model, test.clips, frame=8_192), test)


def main() -> None:
    """Train at every length, judge, write; after each run what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample-rate", type=int, default=16_000)
    parser.add_argument("--full", action="store_true", help="the paper's model and segments, for a GPU")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, nargs="+", default=[100, 1000])
    budget.add_argument("--minutes", type=float, help="of training in all")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = FULL if options.full else SMALL
    corpus = {
        split: recordings(options.folder / split, options.sample_rate, setting.recipe.quantizer)
        for split in ("train", "test")
    }
    test = excerpts(corpus["test"], setting.seconds * options.sample_rate, setting.judged)
    if options.minutes is None:
        budgets = {str(steps): dict.fromkeys(setting.recipes(), steps) for steps in options.steps}
    else:
        each = 60 * options.minutes / (len(setting.lengths) * options.seeds)
        budgets = {f"{each:g} s": equal_time(setting, corpus, each)}
    runs: dict[str, dict[str, list[Any]]] = {
        name: {length: [] for length in steps} for name, steps in budgets.items()
    }
    with Parts() as parts:
        for name, length, seed in itertools.product(budgets, setting.recipes(), range(options.seeds)):
            with parts.of(f"{name}, {length}, seed {seed}"):
                runs[name][length].append(judged(setting, length, corpus, test, budgets[name][length], seed))
                print(name, length, seed, runs[name][length][-1], flush=True)
                record(setting, options, budgets, runs)


def record(
    setting: Setting,
    options: argparse.Namespace,
    budgets: dict[str, dict[str, int]],
    runs: dict[str, dict[str, list[Any]]],
) -> None:
    """Write the result."""
    save_result(
        "context_full" if options.full else "context",
        question="Likelihood of a SaShiMi by the length of its training segments, at equal samples a step",
        config={
            "factor": setting.factor,
            "samples_per_step": max(setting.lengths),
            "sample_rate": options.sample_rate,
        },
        figures={"steps": budgets, "test_bits": runs},
        units={"test_bits": f"by steps or seconds of training, and by samples a segment: {UNIT}"},
        repeats=options.seeds,
        seed=0,
        data=f"{options.folder.name}: excerpts of {setting.seconds} s of held-out recordings, 8-bit mu-law",
    )


if __name__ == "__main__":
    main()
