"""The clips of chapter 7 are drawn as a reader would draw them; figures about them mean something."""

import importlib
import math

import pytest
import torch

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SamplingConfig, SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM


@pytest.fixture
def listening(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))  # as when it is run as a script
    return importlib.import_module("listening")


@pytest.fixture
def model():
    return AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))


def test_one_draw_at_temperature_one_is_that_of_generate(listening, model):
    assert torch.equal(listening.draw_each(model, 40, [SamplingConfig()]), model.generate(40, seed=0))


def test_every_row_keeps_to_its_own_setting(listening, model):
    cold, hot = listening.draw_each(model, 60, [SamplingConfig(0.01), SamplingConfig()])
    assert len(cold.unique()) < len(hot.unique())


def test_noise_is_flat_and_a_tone_is_not(listening):
    noise = torch.randn(8000, generator=torch.Generator().manual_seed(0)) / 10
    tone = 0.1 * torch.sin(2 * math.pi * 440 * torch.arange(8000) / 8000)
    assert -4 < listening.flatness_db(noise) <= 0
    assert listening.flatness_db(tone) < -60


def test_a_model_that_knows_nothing_adds_the_spread_of_all_codes(listening, model):
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    spread = 10 * math.log10(float(MuLaw().decode(torch.arange(256)).double().var(unbiased=False)))
    out = listening.noise_out(model, [0.1 * torch.sin(torch.arange(320) * 0.05)], 320)
    assert all(level == pytest.approx(spread, abs=0.01) for levels in out.values() for level in levels)
