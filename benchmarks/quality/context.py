"""How many bits is more context worth? One SaShiMi, trained on segments of different lengths.

    python -m benchmarks.quality.context runs/data/piano --sample-rate 16000
    python -m benchmarks.quality.context runs/data/piano --full --minutes 8

The folder holds ``train`` and ``test``, with whole recordings. The number of samples per step is the same for
all lengths: shorter segments come in larger batches. All train for equally many steps, once for few and once
for many; or with ``--minutes``, which they share evenly, for equally long. All are evaluated on the same
excerpts, which are longer than any segment. The small model takes about ten minutes on one CPU thread;
``--full`` is the paper's on its segments of 1, 2, 4 and 8 seconds (table 3), for a GPU. Writes
``book/results/context.json``, or ``context_full.json``.
"""

import argparse
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.corpus import CodesBySplit, Excerpts, excerpts, load_codes, segments
from benchmarks.lib.evaluation import UNIT, summarize_bits
from benchmarks.lib.result import ErrorCollector, save_result
from benchmarks.lib.training import seconds_per_step, train_for_steps
from sashimi_lib.evaluation.likelihood import clip_bits
from sashimi_lib.training.recipes import SMALL_SASHIMI, YOUTUBEMIX_SASHIMI_8, Recipe


@dataclass(frozen=True)
class Setting:
    """A recipe and the factor of its learning rates; segment lengths in samples; seconds of each test
    excerpt, and the most samples of all of them."""

    recipe: Recipe
    lr_factor: float
    lengths: tuple[int, ...]
    seconds: int
    max_samples: int

    def recipes(self) -> dict[str, Recipe]:
        """The recipe for each segment length, with equally many samples per step."""
        by_length = {}
        for length in self.lengths:
            training = replace(self.recipe.training, batch_size=max(self.lengths) // length)
            by_length[str(length)] = replace(self.recipe, length=length, training=training)
        return by_length


SMALL = Setting(
    SMALL_SASHIMI,
    lr_factor=2.0,  # the best in the comparison of models
    lengths=(512, 2_048, 8_192),
    seconds=4,
    max_samples=400_000,
)
FULL = Setting(
    YOUTUBEMIX_SASHIMI_8,
    lr_factor=1.0,
    lengths=(16_000, 32_000, 64_000, 128_000),
    seconds=16,
    max_samples=8_000_000,
)


def equal_time(setting: Setting, corpus: CodesBySplit, seconds: float) -> dict[str, int]:
    """How many training steps of each segment length fit into ``seconds``."""
    step_seconds = seconds_per_step(setting.recipes(), corpus)
    return {length: max(1, int(seconds / min(each))) for length, each in step_seconds.items()}


def train_and_evaluate(
    setting: Setting, length: str, corpus: CodesBySplit, test: Excerpts, steps: int, seed: int
) -> dict[str, Any]:
    """Test bits after ``steps`` training steps on segments of one length."""
    recipe = setting.recipes()[length]
    data = segments(corpus["train"], recipe.length)
    model = train_for_steps(recipe, data, steps, setting.lr_factor, seed)
    return summarize_bits(clip_bits(model, test.clips, chunk_length=8_192), test)


def main() -> None:
    """Train and evaluate every segment length, writing the result after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample-rate", type=int, default=16_000)
    parser.add_argument("--full", action="store_true", help="the paper's model and segments, for a GPU")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, nargs="+", default=[100, 1000], help="steps of each run")
    budget.add_argument("--minutes", type=float, help="training time of all runs together")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each length")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = FULL if options.full else SMALL
    quantizer = setting.recipe.quantizer
    corpus = load_codes(options.folder, options.sample_rate, quantizer, splits=("train", "test"))
    test = excerpts(corpus["test"], setting.seconds * options.sample_rate, setting.max_samples)
    if options.minutes is None:
        budgets = {str(steps): dict.fromkeys(setting.recipes(), steps) for steps in options.steps}
    else:
        each = 60 * options.minutes / (len(setting.lengths) * options.seeds)
        budgets = {f"{each:g} s": equal_time(setting, corpus, each)}
    runs: dict[str, dict[str, list[Any]]] = {
        name: {length: [] for length in steps} for name, steps in budgets.items()
    }
    with ErrorCollector() as errors:
        for name, length, seed in itertools.product(budgets, setting.recipes(), range(options.seeds)):
            with errors.collect(f"{name}, {length}, seed {seed}"):
                steps = budgets[name][length]
                runs[name][length].append(train_and_evaluate(setting, length, corpus, test, steps, seed))
                print(name, length, seed, runs[name][length][-1], flush=True)
                write_result(setting, options, budgets, runs)


def write_result(
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
            "factor": setting.lr_factor,
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
