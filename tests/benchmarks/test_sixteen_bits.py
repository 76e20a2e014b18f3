"""16-bit models have equally many samples per step; coarser quantizations have fewer bits."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.quality import sixteen_bits
from sashimi_lib.models import SaShiMiConfig, WaveRNNConfig
from sashimi_lib.training.recipes import SMALL_SASHIMI, WAVERNN_224


@pytest.fixture
def tiny():
    sashimi = replace(SMALL_SASHIMI, backbone=SaShiMiConfig(d_model=4, n_layers=1))
    wavernn = replace(WAVERNN_224, backbone=WaveRNNConfig(8))
    return sixteen_bits.comparable_models(sashimi, wavernn, batch_size=1, length=64, sequences=4)


def test_every_model_has_equally_many_samples_per_step(tiny):
    assert {recipe.samples_per_step for recipe in tiny.values()} == {64}
    assert {recipe.samples_per_step for recipe in sixteen_bits.SMALL.values()} == {2048}
    assert {recipe.samples_per_step for recipe in sixteen_bits.FULL.values()} == {32_768}
    heads = [type(getattr(recipe.build(0), "head", None)).__name__ for recipe in tiny.values()]
    assert heads == ["NoneType", "DualSoftmax", "JointSoftmax", "Logistics", "Softmax"]


@pytest.mark.slow
def test_peak_memory_includes_the_logits(tiny):
    corpus = {"train": [torch.randint(0, 256, (256, 2))]}
    logits = 64 * 65_536 * 4 / 2**20
    peak = sixteen_bits.peak_mebibytes(tiny["SaShiMi, joint softmax"], corpus)
    assert peak > 2 * logits  # and their gradients


@pytest.mark.slow
def test_a_small_comparison(tiny, tmp_path, tones, monkeypatch):
    monkeypatch.setattr(sixteen_bits, "SMALL", tiny)
    monkeypatch.setattr(sixteen_bits, "ROUNDS", 1)
    monkeypatch.setattr(sixteen_bits, "peak_mebibytes", lambda recipe, corpus: 1.0)
    monkeypatch.setattr(
        sixteen_bits,
        "samples_per_second",
        lambda models, *_, batch_sizes: {name: {"1": 1.0} for name in models},
    )
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    command = [str(tones(70, sample_rate=8000)), "--sample-rate", "8000", "--seconds", "0.01", "--seeds", "2"]
    monkeypatch.setattr("sys.argv", ["sixteen_bits.py", *command, "--factors", "1"])
    sixteen_bits.main()
    result = json.loads((tmp_path / "sixteen_bits_tones.json").read_text())
    assert result["figures"]["test_samples"] == sum(range(70, 76))
    assert result["config"]["recipes"]["SaShiMi, logistics"]["head"] == "Logistics"
    models = result["figures"]["models"]
    assert list(models) == list(tiny)
    assert models["SaShiMi, dual softmax"]["step_ratios"] == [1.0]
    eight = models.pop("SaShiMi, 8 bits")["test_bits"]
    assert list(eight) == ["mulaw_bits"]
    assert len(eight["mulaw_bits"]) == 2
    for model in models.values():
        by_quantization = zip(*model["test_bits"].values(), strict=True)
        for whole, coarse, mulaw in by_quantization:
            assert 1 < coarse["mean"] < mulaw["mean"] < whole["mean"] < 20
            assert whole["recordings"] == coarse["recordings"] == mulaw["recordings"] == 6
