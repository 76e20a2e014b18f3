"""Do a CPU and a GPU train the same model, and is what training validates the model that it trains?

    python benchmarks/same_training.py            on a GPU, half a minute
    python benchmarks/same_training.py --quick    a CPU beside itself, one model, to see that it runs

Some steps of `sashimi_lib.training.trainer.train`, from the same weights on the same tones, on both. Rounding
differs, and an optimizer that divides a gradient by its size makes a difference of it that grows, so losses
are compared up to `LOSS`, relative to the CPU's. Every validation on the way is done again: by a new module
with the weights of that step, on the same device (up to `VALIDATION`) and on the CPU (up to `LOSS`). A model
that keeps anything from an earlier step fails the first.

Writes ``book/results/same_training_gpu.json``, or ``same_training_quick.json``, anew after each model, and
ends with exit code 1 where one of them does not agree.
"""

import argparse
import dataclasses
import itertools
import sys
from typing import Any, NamedTuple

import torch
from result import save_result
from torch import Tensor

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
THREADS = 2  # so small a model only loses time to more
LENGTH, QUICK_LENGTH = 1024, 64  # samples of a sequence
LOSS, VALIDATION = 5e-4, 1e-5  # relative differences that may be; two CPU threads differ from one by 2e-7


class Trained(NamedTuple):
    """Losses of all steps, validations as (steps, loss), and the weights that these judged."""

    losses: list[float]
    validations: list[tuple[int, float]]
    weights: list[dict[str, Tensor]]


def tones(recipe: Recipe | DiffusionRecipe, length: int) -> list[Example]:
    """Decaying tones of many pitches, as the recipe's model takes them."""
    t = torch.arange(length)
    pitch = torch.logspace(-2, -0.5, SEQUENCES)[:, None]
    waveforms = 0.5 * torch.sin(2 * torch.pi * pitch * t) * torch.exp(-t / length)
    if isinstance(recipe, DiffusionRecipe):
        return [(waveform, number % 10) for number, waveform in enumerate(waveforms)]
    return list(recipe.quantizer.encode(waveforms))


def trained(recipe: Recipe | DiffusionRecipe, data: list[Example], device: str) -> Trained:
    """Train on a device, with a validation now and then."""
    config = dataclasses.replace(recipe.training, steps=STEPS, warmup=EVERY, valid_every=EVERY)
    model, weights = recipe.build(0).to(device), []

    def keep(step: int, loss: float) -> None:
        if (step + 1) % EVERY == 0:
            weights.append({name: x.detach().cpu().clone() for name, x in model.state_dict().items()})

    history = train(model, data, config, valid=data[:2], on_step=keep, progress=False)
    return Trained(history.loss, history.valid, weights)


def judged_anew(
    recipe: Recipe | DiffusionRecipe, weights: dict[str, Tensor], data: Any, device: str
) -> float:
    """What a new module with these weights makes of the validation data."""
    model: Trainable = recipe.build(0).to(device)
    model.load_state_dict(weights)
    return validation_loss(model, data[:2], recipe.training.batch_size)


def apart(a: list[float], b: list[float]) -> float:
    """The largest difference, relative to the second."""
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))


def compared(recipe: Recipe | DiffusionRecipe, length: int, device: str) -> dict[str, Any]:
    """Both runs side by side, every validation beside that of new modules, and whether all agree."""
    data = tones(recipe, length)
    here, there = trained(recipe, data, "cpu"), trained(recipe, data, device)
    during = [loss for _, loss in there.validations]
    anew = [judged_anew(recipe, weights, data, device) for weights in there.weights]
    on_cpu = [judged_anew(recipe, weights, data, "cpu") for weights in there.weights]
    differences = {
        "losses": apart(there.losses, here.losses),
        "validation_anew": apart(during, anew),
        "validation_on_cpu": apart(during, on_cpu),
    }
    allowed = {"losses": LOSS, "validation_anew": VALIDATION, "validation_on_cpu": LOSS}
    return {
        "losses": {"cpu": here.losses, "device": there.losses},
        "validations": {"during": during, "anew": anew, "on_cpu": on_cpu},
        "differences": differences,
        "agrees": all(difference <= allowed[name] for name, difference in differences.items()),
    }


def main() -> None:
    """Compare all models, writing as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one model, shorter sequences; a CPU will do")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.quick:
        parser.error("needs a GPU; --quick shows on a CPU that it runs")
    device, length, number = ("cpu", QUICK_LENGTH, 1) if options.quick else ("cuda", LENGTH, len(MODELS))
    torch.set_num_threads(min(THREADS, torch.get_num_threads()))
    figures: dict[str, Any] = {}
    for name, recipe in itertools.islice(MODELS.items(), number):
        figures[name] = compared(recipe, length, device)
        print(name, figures[name]["differences"], figures[name]["agrees"], flush=True)
        save_result(
            "same_training_quick" if options.quick else "same_training_gpu",
            question="Whether a CPU and a GPU train alike, and training validates the model that it trains",
            config={"steps": STEPS, "length": length, "loss": LOSS, "validation": VALIDATION},
            figures=figures,
            units={"differences": "the largest of all steps or validations, relative"},
            repeats=1,
            seed=0,
            data="tones made by the script",
        )
    sys.exit(not all(entry["agrees"] for entry in figures.values()))


if __name__ == "__main__":
    main()
