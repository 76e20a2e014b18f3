"""How generated digits are judged: drawn in several ways, heard by a classifier, beside real recordings."""

from typing import Any, NamedTuple

import torch
from corpus import Sounds
from torch import Tensor

from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.diffusion.samplers import ANCESTRAL, DPM_SOLVER, DiffusionSampler
from sashimi_lib.evaluation.classifier import load_classifier
from sashimi_lib.evaluation.distances import frechet

LEVELS = 11  # steps of the schedule, evenly spread, at which the noise is to be heard
AT_ONCE = 250 if torch.cuda.is_available() else 10  # sounds side by side: no more than a cache holds
GUIDANCE = 2.0  # where it is not 1


class Way(NamedTuple):
    """How sounds are drawn: a sampler, how many steps of its grid, or every one of the schedule, and
    guidance."""

    sampler: DiffusionSampler
    steps: int | None
    guidance: float = 1.0


WAYS = {
    "6 steps": Way(DPM_SOLVER, 6),
    "20 steps": Way(DPM_SOLVER, 20),
    "every step": Way(ANCESTRAL, None),
    "6 steps, guided": Way(DPM_SOLVER, 6, GUIDANCE),
    "20 steps, guided": Way(DPM_SOLVER, 20, GUIDANCE),
}


def draw(model: DiffusionModel, way: Way, label: Tensor, length: int) -> Tensor:
    """A sound for each label, on the CPU; the same noise to begin with for every model."""
    made = []
    for number, some in enumerate(label.split(AT_ONCE)):
        x = model.generate(
            length, label=some.to(model.device), guidance=way.guidance, sampler=way.sampler, steps=way.steps,
            seed=number,
        )  # fmt: skip
        made.append(x.cpu())
    return torch.cat(made)


@torch.no_grad()
def features_of(waveforms: Tensor) -> Tensor:
    """What the classifier decides by."""
    classifier = load_classifier()
    return torch.cat([classifier.features(some) for some in waveforms.split(AT_ONCE)])


def listen(heard: Sounds, features: Tensor) -> dict[str, Any]:
    """How often the classifier hears what is said, of each class too, and how far its features are from
    those."""
    right = load_classifier().classify(heard.waveform)[0] == heard.label
    return {
        "accuracy": float(right.double().mean()),
        "accuracy_by_class": [
            float(right[heard.label == label].double().mean()) for label in heard.label.unique()
        ],
        "frechet": float(frechet(features_of(heard.waveform), features)),
    }


def loss_by_level(model: DiffusionModel, test: Sounds) -> dict[str, list[float]]:
    """How well a model hears the noise, at so many steps of its schedule, and the sound."""
    steps = torch.linspace(0, model.config.schedule.steps - 1, LEVELS, dtype=torch.float64)
    noise, clean = torch.zeros(2, LEVELS, dtype=torch.float64)
    for number, (x, label) in enumerate(
        zip(test.waveform.split(AT_ONCE), test.label.split(AT_ONCE), strict=True)
    ):
        loss = model.loss_by_level(x.to(model.device), steps, label.to(model.device), seed=number)
        noise += loss.noise.double().cpu() * len(x) / len(test.waveform)
        clean += loss.clean.double().cpu() * len(x) / len(test.waveform)
    return {
        "step": steps.tolist(),
        "log_snr": model.config.schedule.log_snr(steps).tolist(),
        "noise": noise.tolist(),
        "clean": clean.tolist(),
    }
