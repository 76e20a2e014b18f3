"""Models compete for the same time on the same recordings; what is known of an earlier contest is taken."""

import importlib
import json
from dataclasses import replace

import pytest

from sashimi_lib.models import SampleRNNConfig, SaShiMiConfig
from sashimi_lib.training.recipes import SMALL_SAMPLERNN, SMALL_SASHIMI

SASHIMI = SaShiMiConfig(d_model=4, n_layers=1)
SAMPLERNN = SampleRNNConfig((2,), d_hidden=4, d_embedding=4)


@pytest.fixture
def contest(root, monkeypatch, tmp_path, tones):
    """The script, with two tiny models, a train and a valid recording, and six to be judged by."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))  # as when it is run as a script
    module = importlib.import_module("autoregressive")
    tones(500, sample_rate=400)
    learning = replace(SMALL_SASHIMI.training, batch_size=1)
    models = {
        "SaShiMi": replace(SMALL_SASHIMI, backbone=SASHIMI, length=64, training=learning),
        "SampleRNN": replace(SMALL_SAMPLERNN, backbone=SAMPLERNN, length=64),
    }
    monkeypatch.setattr(module, "SMALL", models)
    monkeypatch.setattr(module, "BATCHES", (1,))
    monkeypatch.setattr(module, "CLIPS", 1)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr("result.RESULTS", tmp_path)
    return module


def run(contest, monkeypatch, folder, *words):
    command = [str(folder / "tones"), "--sample-rate", "400", "--seconds", "0.01", "--factors", "1", *words]
    monkeypatch.setattr("sys.argv", ["autoregressive.py", *command])
    contest.main()
    return json.loads((folder / "autoregressive_tones.json").read_text())


@pytest.mark.slow
def test_models_are_judged_on_recordings_and_again_like_an_earlier_result(contest, monkeypatch, tmp_path):
    first = run(contest, monkeypatch, tmp_path, "--seeds", "2")
    assert list(first["figures"]["models"]) == ["SaShiMi", "SampleRNN"]
    for row in first["figures"]["models"].values():
        assert row["steps"] >= 4
        assert row["generated_samples_per_second"]["1"] > 10
        for judged in row["test_bits"]:
            assert judged["samples"] == [400] * 6
            low, high = judged["interval"]
            assert low < judged["mean"] < high

    monkeypatch.setattr(contest, "tune", None)  # neither is asked for again
    monkeypatch.setattr(contest, "planned", None)
    like = ("--like", str(tmp_path / "autoregressive_tones.json"))
    again = run(contest, monkeypatch, tmp_path, "--seeds", "2", *like)
    assert again["figures"] == first["figures"]
    assert again["config"]["planned"] == first["date"]


@pytest.mark.slow
def test_a_model_that_cannot_be_trained_costs_no_other(contest, monkeypatch, tmp_path):
    learn = contest.learn

    def fails(recipe, *rest, **named):
        if recipe.backbone == SAMPLERNN:
            raise RuntimeError("no such kernel")
        return learn(recipe, *rest, **named)

    monkeypatch.setattr(contest, "learn", fails)
    with pytest.raises(ExceptionGroup, match="failed: SampleRNN"):
        run(contest, monkeypatch, tmp_path, "--seeds", "1")
    models = json.loads((tmp_path / "autoregressive_tones.json").read_text())["figures"]["models"]
    assert list(models) == ["SaShiMi"]


@pytest.mark.slow
def test_what_was_judged_before_a_model_failed_is_written(contest, monkeypatch, tmp_path):
    contend = contest.contend

    def fails(name, *rest):
        return contend(name, *rest) if name == "SaShiMi" else 1 / 0

    monkeypatch.setattr(contest, "contend", fails)
    with pytest.raises(ExceptionGroup, match="failed: SampleRNN"):
        run(contest, monkeypatch, tmp_path, "--seeds", "1")
    models = json.loads((tmp_path / "autoregressive_tones.json").read_text())["figures"]["models"]
    assert models["SaShiMi"]["test_bits"][0]["recordings"] == 6
    assert "SampleRNN" not in models
