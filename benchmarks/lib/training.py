"""Training and timing of autoregressive models, as several benchmarks do it."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.lib.corpus import CodesBySplit, Excerpts, segments
from benchmarks.lib.memory import peak_mebibytes_of
from benchmarks.lib.result import ErrorCollector, results_folder
from benchmarks.lib.timing import training_seconds
from sashimi_lib.audio import write
from sashimi_lib.evaluation.likelihood import clip_bits
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.init import init_ordered_embeddings
from sashimi_lib.training.recipes import Recipe
from sashimi_lib.training.trainer import train

BATCH_SIZES = (1, 4, 16, 64, 256)  # of generation
CLIPS = 4  # generated clips of each model that are stored


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare_training(
    recipe: Recipe, steps: int, lr_factor: float, seed: int
) -> tuple[Autoregressive, TrainingConfig]:
    """A new model and its training configuration: ``steps`` steps at ``lr_factor`` times the recipe's
    learning rates, with cosine decay whatever the recipe's own schedule, since all runs are short."""
    model = recipe.build(seed)
    if isinstance(model, AudioLM):
        init_ordered_embeddings(model)
    schedule = {"steps": steps, "decay": "cosine", "warmup": min(20, steps // 10)}
    schedule["precision"] = "bfloat16" if torch.cuda.is_available() else "float32"
    rates = {"lr": lr_factor * recipe.training.lr, "ssm_lr": lr_factor * recipe.training.ssm_lr}
    return model.to(default_device()), dataclasses.replace(recipe.training, seed=seed, **schedule, **rates)


def train_for_steps(
    recipe: Recipe,
    data: list[torch.Tensor],
    steps: int,
    lr_factor: float,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> Autoregressive:
    """A new model of a recipe, trained for ``steps`` steps as `prepare_training` configures it."""
    model, config = prepare_training(recipe, steps, lr_factor, seed)
    train(model, data, config, on_step=on_step, progress=False)
    return model


def bits_per_clip(model: Autoregressive, clips: list[torch.Tensor]) -> torch.Tensor:
    """Bits per sample of each clip, in chunks small enough for 65,536 logits a sample (1 GiB)."""
    return clip_bits(model, clips, batch_size=8, chunk_length=512)


def choose_lr_factor(
    recipe: Recipe, data: list[torch.Tensor], valid: list[torch.Tensor], steps: int, factors: list[float]
) -> tuple[float, dict[float, float]]:
    """The factor of the learning rates with the fewest validation bits after ``steps`` steps, and the bits of
    every factor. With a single factor nothing is trained."""
    if len(factors) == 1:
        return factors[0], {}
    bits = {
        factor: float(bits_per_clip(train_for_steps(recipe, data, steps, factor, 0), valid).mean())
        for factor in factors
    }
    return min(bits, key=bits.__getitem__), bits


def two_batches(recipe: Recipe, corpus: CodesBySplit) -> list[torch.Tensor]:
    """As many training segments as two batches need."""
    return segments(corpus["train"], recipe.length)[: 2 * recipe.training.batch_size]


def runnable_models(
    models: dict[str, Recipe], corpus: CodesBySplit, errors: ErrorCollector
) -> dict[str, Recipe]:
    """The models that can train and generate at all, found out before time is spent on the others."""
    for name, recipe in models.items():
        with errors.collect(name):
            train_for_steps(recipe, two_batches(recipe, corpus), 2, 1.0, seed=0).generate(16)
    return {name: recipe for name, recipe in models.items() if name not in errors.failed}


def step_seconds(model: Autoregressive, data: list[torch.Tensor], config: TrainingConfig) -> list[float]:
    """Train a model; returns the seconds of every step but the first, which is a warm-up."""
    ends: list[float] = []
    train(model, data, config, on_step=lambda *_: ends.append(training_seconds()), progress=False)
    return [end - start for start, end in pairwise(ends)]


def seconds_per_step(
    models: dict[str, Recipe], corpus: CodesBySplit, rounds: int = 3
) -> dict[str, list[float]]:
    """Mean seconds of a training step, one entry a round. Models take turns, so that other load slows all
    alike."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, recipe in models.items():
            model, config = prepare_training(recipe, 5, 1.0, seed=0)
            seconds[name].append(fmean(step_seconds(model, two_batches(recipe, corpus), config)))
    return seconds


def samples_per_second(
    models: dict[str, Recipe], rounds: int = 3, batch_sizes: tuple[int, ...] = BATCH_SIZES
) -> dict[str, dict[str, float]]:
    """Generated samples per second of each model by batch size, the best of ``rounds``, models in turn."""
    best = {name: {str(batch): 0.0 for batch in batch_sizes} for name in models}
    for _ in range(rounds):
        for name, recipe in models.items():
            model = recipe.build(0).to(default_device())
            for batch in batch_sizes:
                model.generate(16, batch)
                steps = max(32, 256 // batch)
                start = training_seconds()
                model.generate(steps, batch)
                rate = steps * batch / (training_seconds() - start)
                best[name][str(batch)] = max(best[name][str(batch)], rate)
    return best


def peak_mebibytes(recipe: Recipe, corpus: CodesBySplit) -> float:
    """Peak memory of a model and its training, in MiB."""
    return peak_mebibytes_of(_train_two_steps, recipe, two_batches(recipe, corpus))


def _train_two_steps(recipe: Recipe, data: list[torch.Tensor]) -> None:
    torch.set_num_threads(1)
    train_for_steps(recipe, data, 2, 1.0, seed=0)


def plan_training(
    name: str,
    recipe: Recipe,
    corpus: CodesBySplit,
    valid: Excerpts,
    options: argparse.Namespace,
    step_seconds: list[float],
) -> dict[str, Any]:
    """How a model is to be trained: as many steps as fit into ``options.seconds``, at the best learning rate
    after a quarter of them."""
    data = segments(corpus["train"], recipe.length)
    steps = max(4, int(options.seconds / min(step_seconds)))
    factor, bits = choose_lr_factor(recipe, data, valid.clips, steps // 4, options.factors)
    print(name, steps, "steps;", bits, flush=True)
    return {
        "parameters": sum(p.numel() for p in recipe.build(0).parameters()),
        "validation_bits_by_factor": bits,
        "factor": factor,
        "steps": steps,
        "samples_per_step": recipe.samples_per_step,
        "seconds_per_step": step_seconds,
    }


def read_plans(path: Path | None) -> tuple[dict[str, dict[str, Any]], str | None]:
    """The plan of each model (steps, learning rate) and its measured speeds, from an earlier result, and the
    date of that. Nothing and None without a path."""
    if path is None:
        return {}, None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result["figures"]["models"], result["config"].get("planned", result["date"])


def write_samples(model: Autoregressive, name: str, sample_rate: int) -> list[str]:
    """Generate `CLIPS` clips of two seconds from seed 0, unselected, and write them; returns file names."""
    clips = model.quantizer.decode(model.generate(2 * sample_rate, CLIPS, seed=0).cpu())
    folder = results_folder()
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{name}_{number}.flac".replace(", ", "_").replace(" ", "_") for number in range(CLIPS)]
    for clip, file in zip(clips, names, strict=True):
        write(folder / file, clip, sample_rate)
    return names
