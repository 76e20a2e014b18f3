"""How generated digits are evaluated: sampled with several settings, classified, compared with real ones."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.lib.corpus import LabelledAudio
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.diffusion.samplers import ANCESTRAL, DPM_SOLVER, DiffusionSampler
from sashimi_lib.evaluation.classifier import load_classifier
from sashimi_lib.evaluation.distances import frechet

LEVELS = 11  # noise levels at which losses are computed: evenly spread steps of the schedule
BATCH_SIZE = 250 if torch.cuda.is_available() else 10  # on a CPU no more than its cache holds
GUIDANCE = 2.0  # scale of classifier-free guidance, where it is used


class SamplingConfig(NamedTuple):
    """A diffusion sampler, its number of steps (None: every step of the schedule), and the guidance scale."""

    sampler: DiffusionSampler
    steps: int | None
    guidance: float = 1.0


SAMPLING = {
    "6 steps": SamplingConfig(DPM_SOLVER, 6),
    "20 steps": SamplingConfig(DPM_SOLVER, 20),
    "every step": SamplingConfig(ANCESTRAL, None),
    "6 steps, guided": SamplingConfig(DPM_SOLVER, 6, GUIDANCE),
    "20 steps, guided": SamplingConfig(DPM_SOLVER, 20, GUIDANCE),
}


def generate_digits(model: DiffusionModel, config: SamplingConfig, label: Tensor, length: int) -> Tensor:
    """A waveform for each label, (n, length) on the CPU. Every model starts from the same noise."""
    batches = []
    for number, labels in enumerate(label.split(BATCH_SIZE)):
        x = model.generate(
            length, label=labels.to(model.device), guidance=config.guidance, sampler=config.sampler,
            steps=config.steps, seed=number,
        )  # fmt: skip
        batches.append(x.cpu())
    return torch.cat(batches)


@torch.no_grad()
def classifier_features(waveforms: Tensor) -> Tensor:
    """Features (n, channels) before the classifier's last layer."""
    classifier = load_classifier()
    return torch.cat([classifier.features(batch) for batch in waveforms.split(BATCH_SIZE)])


def digit_metrics(audio: LabelledAudio, reference_features: Tensor) -> dict[str, Any]:
    """The classifier's accuracy, over all and by class, and the Fréchet distance of its features from those
    of reference recordings."""
    correct = load_classifier().classify(audio.waveform)[0] == audio.label
    return {
        "accuracy": float(correct.double().mean()),
        "accuracy_by_class": [
            float(correct[audio.label == label].double().mean()) for label in audio.label.unique()
        ],
        "frechet": float(frechet(classifier_features(audio.waveform), reference_features)),
    }


def loss_by_level(model: DiffusionModel, test: LabelledAudio) -> dict[str, list[float]]:
    """Mean squared errors of the predicted noise and of the predicted clean waveform, at `LEVELS` steps of
    the model's schedule."""
    steps = torch.linspace(0, model.config.schedule.steps - 1, LEVELS, dtype=torch.float64)
    noise, clean = torch.zeros(2, LEVELS, dtype=torch.float64)
    batches = zip(test.waveform.split(BATCH_SIZE), test.label.split(BATCH_SIZE), strict=True)
    for number, (x, label) in enumerate(batches):
        loss = model.loss_by_level(x.to(model.device), steps, label.to(model.device), seed=number)
        noise += loss.noise.double().cpu() * len(x) / len(test.waveform)
        clean += loss.clean.double().cpu() * len(x) / len(test.waveform)
    return {
        "step": steps.tolist(),
        "log_snr": model.config.schedule.log_snr(steps).tolist(),
        "noise": noise.tolist(),
        "clean": clean.tolist(),
    }
