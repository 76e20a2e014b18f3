"""Generation and evaluation run cuDNN without TF32, which PyTorch allows it by default."""

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.evaluation.classifier import load_classifier
from sashimi_lib.evaluation.coarsen import interval_bits
from sashimi_lib.models import DiffWaveConfig, WaveRNN, WaveRNNConfig
from sashimi_lib.models.vocoder import Vocoder
from sashimi_lib.streaming.graph import Graphed
from sashimi_lib.streaming.live import stream
from tests.models.test_precision import MEL, MODELS

WAVEFORM, TWO_FRAMES, VALUES = torch.zeros(1, 8), torch.zeros(1, 2, 3), torch.zeros(1, 5, dtype=torch.long)


def diffusion(**config):
    return DiffusionModel(
        DiffusionConfig(DiffWaveConfig(d_residual=4, d_skip=4, n_layers=2, cycle=2, **config))
    )


def generate_from_prompt(model):
    model.generate(4, prompt=torch.zeros_like(model.generate(2)), seed=0)


def prefill_stream(model):
    stream(model, seconds=0.01).prefill(model.generate(5))


def intervals(model):
    interval_bits(model, model.generate(5), VALUES, VALUES + 9)


CALLS = {
    "SampleRNN": (MODELS["SampleRNN"], generate_from_prompt),
    "WaveNet": (MODELS["WaveNet"], generate_from_prompt),
    "subscale": (MODELS["subscale"], generate_from_prompt),
    "subscale, sequential": (MODELS["subscale"], lambda model: model.generate_sequential(2)),
    "static steps": (lambda: Graphed(MODELS["SampleRNN"](), capture=False), lambda model: model.generate(4)),
    "stream": (MODELS["SampleRNN"], prefill_stream),
    "vocoder": (
        lambda: Vocoder(WaveRNNConfig(8, d_conditioning=2), MEL),
        lambda model: model.synthesize(TWO_FRAMES),
    ),
    "intervals": (lambda: WaveRNN(WaveRNNConfig(8)), intervals),
    "diffusion": (diffusion, lambda model: model.generate(8, steps=2)),
    "diffusion vocoder": (lambda: diffusion(mel=MEL), lambda model: model.synthesize(TWO_FRAMES, steps=2)),
    "loss by level": (diffusion, lambda model: model.loss_by_level(WAVEFORM, torch.tensor([2.0]))),
    "classifier": (load_classifier, lambda model: model.classify(torch.randn(1, 4_000))),
}


@pytest.mark.parametrize("name", CALLS)
def test_cudnn_does_not_use_tf32(name):
    make, call = CALLS[name]
    model, seen = make(), set()
    assert torch.backends.cudnn.allow_tf32  # PyTorch's default
    handle = register_module_forward_hook(lambda *_: seen.add(torch.backends.cudnn.allow_tf32))
    try:
        call(model)
    finally:
        handle.remove()
    assert seen == {False}
    assert torch.backends.cudnn.allow_tf32
