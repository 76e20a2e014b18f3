"""Do a CPU and a GPU train the same model, and does validation during training see the current weights?

    python -m benchmarks.numerics.same_training            on a GPU, half a minute
    python -m benchmarks.numerics.same_training --quick    a CPU with itself, one model, to see that it runs

Runs some steps of `sashimi_lib.training.trainer.train` on both, from the same weights and data. Rounding
differs, and Adam's division by the gradient's size amplifies small differences, so losses are compared up to
a relative difference of 5e-4. Every validation is repeated by a new module with the weights of that step, on
the same device (up to 1e-5) and on the CPU (up to 5e-4). A model that uses stale values fails the first of
these.

Writes ``book/results/same_training_gpu.json``, or ``same_training_quick.json``, after each model, and exits
with code 1 if one of them does not agree.
"""

import argparse
import dataclasses
import itertools
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.lib.result import save_result
from sashimi_lib.data.sequences import Example
from sashimi_lib.models.trainable import Trainable
from sashimi_lib.training import recipes
from sashimi_lib.training.recipes import DiffusionRecipe, Recipe
from sashimi_lib.training.trainer import train
from sashimi_lib.training.validation import validation_loss

MODELS: dict[str, Recipe | DiffusionRecipe] = {
    "SaShiMi": recipes.SMALL_SASHIMI,
    "flat S4": recipes.SMALL_ISOTROPIC,
    "diffusion U-Net": recipes.DIGITS_DIFFUSION_SASHIMI,
}
STEPS, EVERY, SEQUENCES = 20, 5, 8
THREADS = 2  # more only slow down such small models
LENGTH, QUICK_LENGTH = 1024, 64  # samples of a sequence
LOSS, VALIDATION = 5e-4, 1e-5  # tolerated relative differences; two CPU threads differ from one by 2e-7


class TrainingRun(NamedTuple):
    """Losses of all steps, validations as (steps, loss), and the weights at each validation."""

    losses: list[float]
    validations: list[tuple[int, float]]
    weights: list[dict[str, Tensor]]


def tones(recipe: Recipe | DiffusionRecipe, length: int) -> list[Example]:
    """Decaying tones of many pitches, in the recipe's input format."""
    t = torch.arange(length)
    pitch = torch.logspace(-2, -0.5, SEQUENCES)[:, None]
    waveforms = 0.5 * torch.sin(2 * torch.pi * pitch * t) * torch.exp(-t / length)
    if isinstance(recipe, DiffusionRecipe):
        return [(waveform, number % 10) for number, waveform in enumerate(waveforms)]
    return list(recipe.quantizer.encode(waveforms))


def train_on(recipe: Recipe | DiffusionRecipe, data: list[Example], device: str) -> TrainingRun:
    """Train on a device, and record losses, validations and weights."""
    config = dataclasses.replace(recipe.training, steps=STEPS, warmup=EVERY, valid_every=EVERY)
    model, weights = recipe.build(0).to(device), []

    def record(step: int, loss: float) -> None:
        if (step + 1) % EVERY == 0:
            weights.append({name: x.detach().cpu().clone() for name, x in model.state_dict().items()})

    history = train(model, data, config, valid=data[:2], on_step=record, progress=False)
    return TrainingRun(history.loss, history.valid, weights)


def validate_anew(
    recipe: Recipe | DiffusionRecipe, weights: dict[str, Tensor], data: Any, device: str
) -> float:
    """The validation loss of a new module with given weights."""
    model: Trainable = recipe.build(0).to(device)
    model.load_state_dict(weights)
    return validation_loss(model, data[:2], recipe.training.batch_size)


def relative_difference(a: list[float], b: list[float]) -> float:
    """The largest difference of two lists, relative to the second."""
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))


def compare_devices(recipe: Recipe | DiffusionRecipe, length: int, device: str) -> dict[str, Any]:
    """Training on the CPU and on a device, each validation beside those of new modules, and whether all
    agree."""
    data = tones(recipe, length)
    here, there = train_on(recipe, data, "cpu"), train_on(recipe, data, device)
    during = [loss for _, loss in there.validations]
    anew = [validate_anew(recipe, weights, data, device) for weights in there.weights]
    on_cpu = [validate_anew(recipe, weights, data, "cpu") for weights in there.weights]
    differences = {
        "losses": relative_difference(there.losses, here.losses),
        "validation_anew": relative_difference(during, anew),
        "validation_on_cpu": relative_difference(during, on_cpu),
    }
    allowed = {"losses": LOSS, "validation_anew": VALIDATION, "validation_on_cpu": LOSS}
    return {
        "losses": {"cpu": here.losses, "device": there.losses},
        "validations": {"during": during, "anew": anew, "on_cpu": on_cpu},
        "differences": differences,
        "agrees": all(difference <= allowed[name] for name, difference in differences.items()),
    }


def main() -> None:
    """Compare all models, writing the result after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one model and shorter sequences; runs on a CPU")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.quick:
        parser.error("needs a GPU; use --quick to try it on a CPU")
    device, length, number = ("cpu", QUICK_LENGTH, 1) if options.quick else ("cuda", LENGTH, len(MODELS))
    torch.set_num_threads(min(THREADS, torch.get_num_threads()))
    figures: dict[str, Any] = {}
    for name, recipe in itertools.islice(MODELS.items(), number):
        figures[name] = compare_devices(recipe, length, device)
        print(name, figures[name]["differences"], figures[name]["agrees"], flush=True)
        save_result(
            "same_training_quick" if options.quick else "same_training_gpu",
            question="Whether training agrees on a CPU and a GPU, and validation sees the current weights",
            config={"steps": STEPS, "length": length, "loss": LOSS, "validation": VALIDATION},
            figures=figures,
            units={"differences": "largest relative difference over all steps or validations"},
            repeats=1,
            seed=0,
            data="tones made by the script",
        )
    sys.exit(not all(entry["agrees"] for entry in figures.values()))


if __name__ == "__main__":
    main()
