"""The self-test of a model file: reference outputs, written by `save` and verified by `load`."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sashimi_lib.audio.mel import LogMel
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.diffusion.samplers import DPM_SOLVER
from sashimi_lib.models.autoregressive import DiscreteAudioModel
from sashimi_lib.models.vocoder import Vocoder
from sashimi_lib.pretrained.card import GoldenAudio, GoldenOutputs, SavableModel
from sashimi_lib.registry import as_tuples

LENGTH = 64  # samples of the reference outputs
NOISE_LENGTH = 8  # samples of these whose noise a diffusion model estimates
TOLERANCE = 1e-3


@torch.no_grad()
def golden_outputs(model: SavableModel) -> GoldenOutputs | GoldenAudio:
    """Compute the reference outputs of a model."""
    if isinstance(model, DiffusionModel):
        waveform = _sample_waveform(model)
        return GoldenAudio(
            as_tuples(waveform[0].tolist()), as_tuples(_estimate_noise(model, waveform).tolist())
        )
    codes = _sample_codes(model)
    waveform = model.quantizer.decode(codes)
    return GoldenOutputs(as_tuples(codes[0].tolist()), as_tuples(waveform[0].tolist()), _bits(model, codes))


@torch.no_grad()
def check_golden_outputs(model: SavableModel, expected: GoldenOutputs | GoldenAudio | None) -> None:
    """Raise ValueError unless a model reproduces its reference outputs."""
    if isinstance(model, DiffusionModel) and isinstance(expected, GoldenAudio):
        reference = torch.tensor(expected.noise)
        noise = _estimate_noise(model, torch.tensor([expected.waveform]))
        if noise.shape != reference.shape or not bool(((noise - reference).abs() < TOLERANCE).all()):
            raise ValueError(
                f"self-test failed: the estimated noise is {noise.tolist()}, expected {expected.noise}"
            )
    elif not isinstance(model, DiffusionModel) and isinstance(expected, GoldenOutputs):
        bits = _bits(model, torch.tensor([expected.codes]))
        if not abs(bits - expected.bits) < TOLERANCE:
            raise ValueError(
                f"self-test failed: likelihood of the reference codes is {bits} bits, "
                f"expected {expected.bits}"
            )
    else:
        raise ValueError(
            f"self-test failed: reference outputs of a {type(model).__name__} are not "
            f"{type(expected).__name__}"
        )


def _sample_codes(model: DiscreteAudioModel) -> Tensor:
    """Sample codes with seed 0; a vocoder is conditioned on the spectrogram of silence."""
    if isinstance(model, Vocoder):
        return model.synthesize(_silent_features(model.log_mel), seed=0)[:, :LENGTH]
    return model.generate(LENGTH)


def _sample_waveform(model: DiffusionModel) -> Tensor:
    """Generate a waveform with seed 0; a vocoder is conditioned on the spectrogram of silence."""
    if model.log_mel is None:
        return model.sample_audio(LENGTH)
    return model.synthesize(_silent_features(model.log_mel), DPM_SOLVER, steps=20)[:, :LENGTH]


def _silent_features(log_mel: LogMel) -> Tensor:
    return log_mel(torch.zeros(1, LENGTH))


def _bits(model: DiscreteAudioModel, codes: Tensor) -> float:
    return -float(model.log_likelihood(codes).mean())


def _estimate_noise(model: DiffusionModel, waveform: Tensor) -> Tensor:
    """Estimate the noise of `GoldenAudio`, without random numbers."""
    n = model.config.backbone.n_classes
    x = F.pad(waveform, (0, -waveform.shape[1] % model.backbone.frame)).expand(max(n, 1), -1)
    middle = torch.full((len(x),), (model.config.schedule.steps - 1) / 2, dtype=torch.float64)
    features = None if model.log_mel is None else model.log_mel(x)
    _, noise = model.denoise(x, middle, torch.arange(n) if n else None, features=features)
    return noise[:, :NOISE_LENGTH]
