"""SaShiMi against WaveNet, SampleRNN and a flat S4: the same recordings, split and training time.

    python -m benchmarks.quality.autoregressive runs/data/piano --sample-rate 16000
    python -m benchmarks.quality.autoregressive runs/data/digits --sample-rate 8000
    python -m benchmarks.quality.autoregressive runs/data/piano --sample-rate 16000 --full

The folder holds ``train``, ``valid`` and ``test``, with whole recordings. Every model trains for the same
time, in as many steps as fit, on one CPU thread; its learning rate is the best of three on the validation
recordings after a quarter of that time. Under an hour for two folders on two cores. ``--full`` takes the
paper's sizes, for a GPU; a part of that which fits ten minutes is ``--only SaShiMi --seeds 1 --seconds 240``,
and ``--label`` keeps its result apart. Writes ``book/results/autoregressive_FOLDER.json`` after each model,
and four clips that it generated. With ``--like RESULT`` steps, learning rates and speeds are taken from an
earlier result, and models are only trained and evaluated again.
"""

import argparse
import dataclasses
import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.corpus import CodesBySplit, Excerpts, excerpts, load_codes, segments
from benchmarks.lib.evaluation import UNIT, summarize_bits
from benchmarks.lib.result import ErrorCollector, save_result
from benchmarks.lib.training import (
    BATCH_SIZES,
    bits_per_clip,
    plan_training,
    read_plans,
    runnable_models,
    samples_per_second,
    seconds_per_step,
    train_for_steps,
    write_samples,
)
from sashimi_lib.evaluation.likelihood import bigram_bits
from sashimi_lib.training import recipes
from sashimi_lib.training.recipes import Recipe

MAX_SAMPLES = {"valid": 100_000, "test": 320_000}  # of excerpts of a second or less
SMALL = {
    "SaShiMi": recipes.SMALL_SASHIMI,
    "WaveNet": recipes.SMALL_WAVENET,
    "WaveNet, a third": recipes.TINY_WAVENET,
    "SampleRNN": recipes.SMALL_SAMPLERNN,
    "flat S4": recipes.SMALL_ISOTROPIC,
}
FULL = {
    "SaShiMi": recipes.YOUTUBEMIX_SASHIMI_2,
    "WaveNet": recipes.YOUTUBEMIX_WAVENET_1024,
    "SaShiMi-8": recipes.YOUTUBEMIX_SASHIMI_8,
    "SampleRNN": recipes.YOUTUBEMIX_SAMPLERNN_3,
    "flat S4": recipes.YOUTUBEMIX_ISOTROPIC_4,
}


def train_and_evaluate(
    name: str,
    recipe: Recipe,
    corpus: CodesBySplit,
    test: Excerpts,
    options: argparse.Namespace,
    plan: dict[str, Any],
) -> dict[str, Any]:
    """Train one model as planned from every seed; returns its test bits, and clips that it generated."""
    data = segments(corpus["train"], recipe.length)
    runs, clips = [], []
    for seed in range(options.seeds):
        model = train_for_steps(recipe, data, plan["steps"], plan["factor"], seed)
        runs.append(summarize_bits(bits_per_clip(model, test.clips), test))
        print(name, seed, runs[-1], flush=True)
        if seed == 0:
            clips = write_samples(model, f"{result_name(options)}_{name}", options.sample_rate)
    return {"test_bits": runs, "clips": clips}


def main() -> None:
    """Time and train all models, evaluate them, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample-rate", type=int, default=16_000)
    parser.add_argument("--seconds", type=float, default=80.0, help="training time of a run")
    parser.add_argument("--full", action="store_true", help="the paper's sizes, for a GPU")
    parser.add_argument("--only", nargs="+", help="train these models only")
    parser.add_argument(
        "--factors",
        nargs="+",
        type=float,
        default=[0.5, 1.0, 2.0],
        help="multiples of the recipe's learning rates to try",
    )
    parser.add_argument("--label", help="suffix of the result's name")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each model")
    parser.add_argument("--like", type=Path, help="take steps, learning rates and speeds from this result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = FULL if options.full else SMALL
    if options.only:
        models = {name: models[name] for name in options.only}
    with ErrorCollector() as errors:
        compare(models, options, errors)


def compare(models: dict[str, Recipe], options: argparse.Namespace, errors: ErrorCollector) -> None:
    """Train and evaluate all models, writing the result after each."""
    quantizer = next(iter(models.values())).quantizer
    corpus = load_codes(options.folder, options.sample_rate, quantizer)
    evaluated = {
        split: excerpts(corpus[split], options.sample_rate, limit) for split, limit in MAX_SAMPLES.items()
    }
    plans, plan_date = read_plans(options.like)
    figures: dict[str, dict[str, Any]] = {}
    unplanned = {name: recipe for name, recipe in models.items() if name not in plans}
    new = runnable_models(unplanned, corpus, errors)
    step_seconds = seconds_per_step(new, corpus)
    speeds = samples_per_second(new, batch_sizes=BATCH_SIZES)
    for name in [name for name in models if name in plans or name in new]:
        with errors.collect(name):
            recipe = models[name]
            if name in new:
                plans[name] = plan_training(
                    name, recipe, corpus, evaluated["valid"], options, step_seconds[name]
                )
                plans[name]["generated_samples_per_second"] = speeds[name]
            figures[name] = plans[name] | train_and_evaluate(
                name, recipe, corpus, evaluated["test"], options, plans[name]
            )
            write_result(models, figures, plan_date, corpus, evaluated["test"], options)


def write_result(
    models: dict[str, Recipe],
    figures: dict[str, dict[str, Any]],
    plan_date: str | None,
    corpus: CodesBySplit,
    test: Excerpts,
    options: argparse.Namespace,
) -> None:
    """Write the result."""
    save_result(
        result_name(options),
        question="SaShiMi against WaveNet, SampleRNN and a flat S4 after equal training time",
        config={
            "seconds": options.seconds,
            "sample_rate": options.sample_rate,
            "size": "paper" if options.full else "small",
            "recipes": {name: dataclasses.asdict(recipe) for name, recipe in models.items()},
            "planned": plan_date or datetime.date.today().isoformat(),
        },
        figures={
            "models": figures,
            "bigram_bits": bigram_bits(corpus["train"], test.clips),
            "test_samples": sum(map(len, test.clips)),
        },
        units={
            "test_bits": f"{UNIT}, for each seed",
            "seconds_per_step": "seconds of one CPU thread, or wall time on a GPU, one entry a round",
            "planned": "when steps, learning rates and speeds were measured",
        },
        repeats=options.seeds,
        seed=0,
        data=f"{options.folder.name}: excerpts of at most 1 s of held-out recordings, 8-bit mu-law",
    )


def result_name(options: argparse.Namespace) -> str:
    """The name of the result and the prefix of its clips."""
    parts = ["autoregressive", options.folder.name, "full" if options.full else None, options.label]
    return "_".join(filter(None, parts))


if __name__ == "__main__":
    main()
