"""Clips are generated as anybody would generate them; figures about them have the right values."""

import math

import pytest
import torch

from benchmarks.listening import clips
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SamplingConfig, SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM


@pytest.fixture
def model():
    return AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))


def test_a_clip_at_temperature_one_is_that_of_generate(model):
    assert torch.equal(clips.generate_each(model, 40, [SamplingConfig()]), model.generate(40, seed=0))


def test_every_row_has_its_own_temperature(model):
    cold, hot = clips.generate_each(model, 60, [SamplingConfig(0.01), SamplingConfig()])
    assert len(cold.unique()) < len(hot.unique())


def test_noise_is_flat_and_a_tone_is_not():
    noise = torch.randn(8000, generator=torch.Generator().manual_seed(0)) / 10
    tone = 0.1 * torch.sin(2 * math.pi * 440 * torch.arange(8000) / 8000)
    assert -4 < clips.flatness_db(noise) <= 0
    assert clips.flatness_db(tone) < -60


def test_a_uniform_model_adds_the_standard_deviation_of_all_codes(model):
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    spread = 10 * math.log10(float(MuLaw().decode(torch.arange(256)).double().var(unbiased=False)))
    out = clips.predicted_noise(model, [0.1 * torch.sin(torch.arange(320) * 0.05)], 320)
    assert all(level == pytest.approx(spread, abs=0.01) for levels in out.values() for level in levels)
