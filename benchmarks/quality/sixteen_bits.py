"""16-bit audio: WaveRNN against SaShiMi with each of three output heads, and against SaShiMi at 8 bits.

    python -m benchmarks.quality.sixteen_bits runs/data/digits_jackson --sample-rate 8000
    python -m benchmarks.quality.sixteen_bits runs/data/digits_jackson --sample-rate 8000 --full

The folder holds ``train``, ``valid`` and ``test``, with whole recordings. Every model trains for the same
time on one CPU thread; its learning rate is the best of three on the validation recordings after a quarter of
that time. All take the same small number of samples per step: one softmax over all 65,536 values needs 256
KiB for the logits of a sample, and several times that for training, so a step of 2,048 samples fits into 6
GB. SaShiMi takes them as one sequence; WaveRNN as chunks of eight sequences, by truncated back-propagation
through time.

Bits per 16-bit sample and per 8-bit sample are not comparable. So each 16-bit model is also evaluated on the
coarse bytes alone, and on the mu-law codes of its samples (`sashimi_lib.evaluation.coarsen`), given the
16-bit past: the figure to compare with the 8-bit model. ``--full`` takes the paper's sizes, for a GPU. About
half an hour on one core. Writes ``book/results/sixteen_bits_FOLDER.json`` after each model. With ``--like
RESULT`` steps, learning rates and speeds are taken from an earlier result.
"""

import argparse
import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.corpus import CodesBySplit, Excerpts, excerpts, load_codes, segments
from benchmarks.lib.evaluation import UNIT, summarize_bits
from benchmarks.lib.result import ErrorCollector, save_result
from benchmarks.lib.training import (
    bits_per_clip,
    default_device,
    peak_mebibytes,
    plan_training,
    read_plans,
    runnable_models,
    samples_per_second,
    seconds_per_step,
    train_for_steps,
)
from sashimi_lib.audio.quantizers import CoarseFine, Quantizer
from sashimi_lib.evaluation.coarsen import coarse_bits, mulaw_bits
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.heads import Head, JointSoftmax, Logistics
from sashimi_lib.training import recipes
from sashimi_lib.training.recipes import Recipe

MAX_SAMPLES = {"valid": 30_000, "test": 100_000}  # of excerpts of a second or less
ROUNDS = 3  # of timing
REFERENCE = "SaShiMi, dual softmax"  # the model to whose step times others are compared


@dataclasses.dataclass(frozen=True)
class RecipeWithHead(Recipe):
    """A recipe with another output head than the backbone's default."""

    head: type[Head]

    def build(self, seed: int) -> AudioLM:
        """A new model, initialized from a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            backbone = self.backbone.build()
            return AudioLM(self.quantizer, backbone, self.head(backbone.d_model))


def comparable_models(
    sashimi: Recipe, wavernn: Recipe, batch_size: int, length: int, sequences: int
) -> dict[str, Recipe]:
    """All models with the same number of samples per step: ``batch_size`` whole segments, or for WaveRNN
    chunks of ``sequences`` segments whose state is carried over."""
    eight = dataclasses.replace(
        sashimi, length=length, training=dataclasses.replace(sashimi.training, batch_size=batch_size)
    )
    sixteen = dataclasses.replace(eight, quantizer=CoarseFine())
    truncated = dataclasses.replace(
        wavernn.training, batch_size=sequences, tbptt_length=batch_size * length // sequences
    )
    return {
        "WaveRNN": dataclasses.replace(wavernn, length=length, training=truncated),
        REFERENCE: sixteen,
        "SaShiMi, joint softmax": RecipeWithHead(**vars(sixteen), head=JointSoftmax),
        "SaShiMi, logistics": RecipeWithHead(**vars(sixteen), head=Logistics),
        "SaShiMi, 8 bits": eight,
    }


SMALL = comparable_models(recipes.SMALL_SASHIMI, recipes.WAVERNN_224, batch_size=1, length=2_048, sequences=8)
FULL = comparable_models(
    recipes.YOUTUBEMIX_SASHIMI_8, recipes.WAVERNN_896, batch_size=4, length=8_192, sequences=32
)


def coarser_bits(
    model: Autoregressive,
    clips: list[torch.Tensor],
    log_prob: Callable[[Autoregressive, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Bits per sample of each clip under a coarser quantization, whose log2-probabilities ``log_prob``
    gives."""
    return torch.stack(
        [-log_prob(model, clip[None].to(model.device)).double().mean().cpu() for clip in clips]
    )


def evaluate(model: Autoregressive, test: Excerpts) -> dict[str, dict[str, Any]]:
    """Test bits at every quantization that a model supports; all have ``mulaw_bits``."""
    if isinstance(model.quantizer, CoarseFine):
        bits = {
            "sixteen_bits": bits_per_clip(model, test.clips),
            "coarse_bits": coarser_bits(model, test.clips, coarse_bits),
            "mulaw_bits": coarser_bits(model, test.clips, mulaw_bits),
        }
    else:
        bits = {"mulaw_bits": bits_per_clip(model, test.clips)}
    return {name: summarize_bits(values, test) for name, values in bits.items()}


def train_and_evaluate(
    name: str, recipe: Recipe, corpus: CodesBySplit, test: Excerpts, seeds: int, plan: dict[str, Any]
) -> dict[str, Any]:
    """Train one model as planned from every seed; returns its test bits."""
    data, runs = segments(corpus["train"], recipe.length), []
    for seed in range(seeds):
        model = train_for_steps(recipe, data, plan["steps"], plan["factor"], seed)
        runs.append(evaluate(model, test))
        print(name, seed, runs[-1], flush=True)
    return {"test_bits": {name: [run[name] for run in runs] for name in runs[0]}}


def describe(recipe: Recipe) -> dict[str, object]:
    """A recipe as JSON."""
    head = {"head": recipe.head.__name__} if isinstance(recipe, RecipeWithHead) else {}
    return dataclasses.asdict(recipe) | {"quantizer": str(recipe.quantizer)} | head


def main() -> None:
    """Time and train all models, evaluate them, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample-rate", type=int, default=16_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of a run")
    parser.add_argument("--full", action="store_true", help="the paper's sizes, for a GPU")
    parser.add_argument(
        "--factors",
        nargs="+",
        type=float,
        default=[0.5, 1.0, 2.0],
        help="multiples of the recipe's learning rates to try",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each model")
    parser.add_argument("--like", type=Path, help="take steps, learning rates and speeds from this result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with ErrorCollector() as errors:
        compare(FULL if options.full else SMALL, options, errors)


def compare(models: dict[str, Recipe], options: argparse.Namespace, errors: ErrorCollector) -> None:
    """Train and evaluate all models, writing the result after each."""
    corpora = {
        quantizer: load_codes(options.folder, options.sample_rate, quantizer)
        for quantizer in {recipe.quantizer for recipe in models.values()}
    }
    evaluated = {
        quantizer: {
            split: excerpts(corpus[split], options.sample_rate, limit) for split, limit in MAX_SAMPLES.items()
        }
        for quantizer, corpus in corpora.items()
    }
    plans, plan_date = read_plans(options.like)
    measured = measure({name: models[name] for name in models if name not in plans}, corpora, errors)
    figures: dict[str, dict[str, Any]] = {}
    for name in [name for name in models if name in plans or name in measured]:
        with errors.collect(name):
            recipe = models[name]
            corpus, clips = corpora[recipe.quantizer], evaluated[recipe.quantizer]
            if name in measured:
                seconds = measured[name]["seconds_per_step"]
                plan = plan_training(name, recipe, corpus, clips["valid"], options, seconds)
                plans[name] = plan | measured[name]
            figures[name] = plans[name] | train_and_evaluate(
                name, recipe, corpus, clips["test"], options.seeds, plans[name]
            )
            write_result(models, figures, plan_date, clips["test"], options)


def measure(
    models: dict[str, Recipe], corpora: dict[Quantizer, CodesBySplit], errors: ErrorCollector
) -> dict[str, dict[str, Any]]:
    """Time and memory of training steps and of generation, of the models that run at all."""
    new: dict[str, Recipe] = {}
    for name, recipe in models.items():
        new |= runnable_models({name: recipe}, corpora[recipe.quantizer], errors)
    seconds: dict[str, list[float]] = {name: [] for name in new}
    for _ in range(ROUNDS):
        for name, recipe in new.items():
            seconds[name] += seconds_per_step({name: recipe}, corpora[recipe.quantizer], 1)[name]
    speeds = samples_per_second(new, ROUNDS, batch_sizes=(1,))
    return {
        name: {
            "seconds_per_step": seconds[name],
            "step_ratios": [a / b for a, b in zip(seconds[name], seconds.get(REFERENCE, []), strict=False)],
            "peak_mebibytes": peak_mebibytes(recipe, corpora[recipe.quantizer]),
            "generated_samples_per_second": speeds[name]["1"],
        }
        for name, recipe in new.items()
    }


def write_result(
    models: dict[str, Recipe],
    figures: dict[str, dict[str, Any]],
    plan_date: str | None,
    test: Excerpts,
    options: argparse.Namespace,
) -> None:
    """Write the result."""
    save_result(
        "_".join(filter(None, ["sixteen_bits", options.folder.name, "full" if options.full else None])),
        question="16-bit models after equal training time, and beside one of 8 bits",
        config={
            "seconds": options.seconds,
            "sample_rate": options.sample_rate,
            "size": "paper" if options.full else "small",
            "device": default_device().type,
            "recipes": {name: describe(recipe) for name, recipe in models.items()},
            "planned": plan_date or datetime.date.today().isoformat(),
        },
        figures={"models": figures, "test_samples": sum(map(len, test.clips))},
        units={
            "sixteen_bits": f"{UNIT}, for each seed; a sample has 16 bits",
            "coarse_bits": "the same of coarse bytes, given the past in 16 bits",
            "mulaw_bits": "the same of 8-bit mu-law codes; of a 16-bit model, given the past in 16 bits",
            "seconds_per_step": "seconds of one CPU thread, or wall time on a GPU, one entry a round",
            "step_ratios": f"seconds per step over those of {REFERENCE} in the same round",
            "peak_mebibytes": "MiB, peak of a model and its training",
            "generated_samples_per_second": "of one sequence, the best of the rounds; a mixture of "
            "logistics is sampled through all 65,536 values",
            "planned": "when steps, learning rates, speeds and memory were measured",
        },
        repeats=options.seeds,
        seed=0,
        data=f"{options.folder.name}: excerpts of at most 1 s of held-out recordings",
    )


if __name__ == "__main__":
    main()
