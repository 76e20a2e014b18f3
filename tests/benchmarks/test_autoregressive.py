"""Models are compared after equal training time, or by the plans of an earlier result."""

import json
from dataclasses import replace

import pytest

from benchmarks.lib import training
from benchmarks.quality import autoregressive
from sashimi_lib.models import SampleRNNConfig, SaShiMiConfig
from sashimi_lib.training.recipes import SMALL_SAMPLERNN, SMALL_SASHIMI

SASHIMI = SaShiMiConfig(d_model=4, n_layers=1)
SAMPLERNN = SampleRNNConfig((2,), d_hidden=4, d_embedding=4)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path, tones):
    """Two tiny models, one recording for training, one for validation, and six for the test."""
    tones(500, sample_rate=400)
    config = replace(SMALL_SASHIMI.training, batch_size=1)
    models = {
        "SaShiMi": replace(SMALL_SASHIMI, backbone=SASHIMI, length=64, training=config),
        "SampleRNN": replace(SMALL_SAMPLERNN, backbone=SAMPLERNN, length=64),
    }
    monkeypatch.setattr(autoregressive, "SMALL", models)
    monkeypatch.setattr(autoregressive, "BATCH_SIZES", (1,))
    monkeypatch.setattr(training, "CLIPS", 1)
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))


def run(monkeypatch, folder, *words):
    command = [str(folder / "tones"), "--sample-rate", "400", "--seconds", "0.01", "--factors", "1", *words]
    monkeypatch.setattr("sys.argv", ["autoregressive.py", *command])
    autoregressive.main()
    return json.loads((folder / "autoregressive_tones.json").read_text())


@pytest.mark.slow
def test_models_are_evaluated_on_recordings_and_again_with_the_plans_of_an_earlier_result(
    monkeypatch, tmp_path
):
    first = run(monkeypatch, tmp_path, "--seeds", "2")
    assert list(first["figures"]["models"]) == ["SaShiMi", "SampleRNN"]
    for row in first["figures"]["models"].values():
        assert row["steps"] >= 4
        assert row["generated_samples_per_second"]["1"] > 10
        for bits in row["test_bits"]:
            assert bits["samples"] == [400] * 6
            low, high = bits["interval"]
            assert low < bits["mean"] < high

    monkeypatch.setattr(autoregressive, "plan_training", None)  # it is not called again
    like = ("--like", str(tmp_path / "autoregressive_tones.json"))
    again = run(monkeypatch, tmp_path, "--seeds", "2", *like)
    assert again["figures"] == first["figures"]
    assert again["config"]["planned"] == first["date"]


@pytest.mark.slow
def test_a_model_that_cannot_be_trained_does_not_stop_the_others(monkeypatch, tmp_path):
    train_for_steps = training.train_for_steps

    def fails(recipe, *rest, **named):
        if recipe.backbone == SAMPLERNN:
            raise RuntimeError("no such kernel")
        return train_for_steps(recipe, *rest, **named)

    monkeypatch.setattr(training, "train_for_steps", fails)
    with pytest.raises(ExceptionGroup, match="failed: SampleRNN"):
        run(monkeypatch, tmp_path, "--seeds", "1")
    models = json.loads((tmp_path / "autoregressive_tones.json").read_text())["figures"]["models"]
    assert list(models) == ["SaShiMi"]


@pytest.mark.slow
def test_a_result_is_written_before_another_model_fails(monkeypatch, tmp_path):
    train_and_evaluate = autoregressive.train_and_evaluate

    def fails(name, *rest):
        return train_and_evaluate(name, *rest) if name == "SaShiMi" else 1 / 0

    monkeypatch.setattr(autoregressive, "train_and_evaluate", fails)
    with pytest.raises(ExceptionGroup, match="failed: SampleRNN"):
        run(monkeypatch, tmp_path, "--seeds", "1")
    models = json.loads((tmp_path / "autoregressive_tones.json").read_text())["figures"]["models"]
    assert models["SaShiMi"]["test_bits"][0]["recordings"] == 6
    assert "SampleRNN" not in models
