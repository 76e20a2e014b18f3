"""16-bit models are compared on the same sounds, in steps of as many samples; coarser questions cost less."""

import importlib
import json
from dataclasses import replace

import pytest
import torch

from sashimi_lib.models import SaShiMiConfig, WaveRNNConfig
from sashimi_lib.training.recipes import SMALL_SASHIMI, WAVERNN_224


@pytest.fixture
def sixteen(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))  # as when it is run as a script
    return importlib.import_module("sixteen_bits")


@pytest.fixture
def tiny(sixteen):
    sashimi = replace(SMALL_SASHIMI, backbone=SaShiMiConfig(d_model=4, n_layers=1))
    wavernn = replace(WAVERNN_224, backbone=WaveRNNConfig(8))
    return sixteen.contenders(sashimi, wavernn, batch_size=1, length=64, sequences=4)


def test_every_model_learns_from_as_many_samples_a_step(sixteen, tiny):
    assert {recipe.samples_per_step for recipe in tiny.values()} == {64}
    assert {recipe.samples_per_step for recipe in sixteen.SMALL.values()} == {2048}
    assert {recipe.samples_per_step for recipe in sixteen.FULL.values()} == {32_768}
    heads = [type(getattr(recipe.build(0), "head", None)).__name__ for recipe in tiny.values()]
    assert heads == ["NoneType", "DualSoftmax", "JointSoftmax", "Logistics", "Softmax"]


@pytest.mark.slow
def test_a_model_in_a_process_of_its_own_takes_at_least_its_logits(sixteen, tiny):
    corpus = {"train": [torch.randint(0, 256, (256, 2))]}
    logits = 64 * 65_536 * 4 / 2**20
    assert sixteen.peak_mebibytes(tiny["SaShiMi, joint softmax"], corpus) > 2 * logits  # and their gradients


@pytest.mark.slow
def test_the_comparison_in_miniature(sixteen, tiny, tmp_path, tones, monkeypatch):
    monkeypatch.setattr(sixteen, "SMALL", tiny)
    monkeypatch.setattr(sixteen, "ROUNDS", 1)
    monkeypatch.setattr(sixteen, "peak_mebibytes", lambda recipe, corpus: 1.0)
    monkeypatch.setattr(
        sixteen, "samples_per_second", lambda models, *_, batches: {name: {"1": 1.0} for name in models}
    )
    monkeypatch.setattr("result.RESULTS", tmp_path)
    command = [str(tones(70, sample_rate=8000)), "--sample-rate", "8000", "--seconds", "0.01", "--seeds", "2"]
    monkeypatch.setattr("sys.argv", ["sixteen_bits.py", *command, "--factors", "1"])
    sixteen.main()
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
        by_question = zip(*model["test_bits"].values(), strict=True)
        for whole, coarse, mulaw in by_question:
            assert 1 < coarse["mean"] < mulaw["mean"] < whole["mean"] < 20
            assert whole["recordings"] == coarse["recordings"] == mulaw["recordings"] == 6
