"""All segment lengths have equally many samples per step, and a model of each is evaluated."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.quality import context
from sashimi_lib.models import SaShiMiConfig
from sashimi_lib.training.recipes import SMALL_SASHIMI


@pytest.fixture
def tiny():
    recipe = replace(SMALL_SASHIMI, backbone=SaShiMiConfig(d_model=4, n_layers=1))
    return context.Setting(recipe, lr_factor=1.0, lengths=(32, 64), seconds=1, max_samples=1_300)


def test_every_length_has_equally_many_samples_per_step():
    for setting in (context.SMALL, context.FULL):
        assert {recipe.samples_per_step for recipe in setting.recipes().values()} == {max(setting.lengths)}
    assert [recipe.training.batch_size for recipe in context.FULL.recipes().values()] == [8, 4, 2, 1]


@pytest.mark.slow
def test_each_length_is_trained_for_equally_long(tiny):
    steps = context.equal_time(tiny, {"train": list(torch.randint(100, 150, (2, 640)))}, seconds=0.1)
    assert list(steps) == ["32", "64"]
    assert all(steps.values())


@pytest.fixture
def command(tiny, tmp_path, tones, monkeypatch):
    monkeypatch.setattr(context, "SMALL", tiny)
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    words = [str(tones(600, sample_rate=200)), "--sample-rate", "200", "--steps", "2", "4", "--seeds", "2"]
    monkeypatch.setattr("sys.argv", ["context.py", *words])


@pytest.mark.slow
def test_every_run_is_evaluated_by_recording(command, tmp_path):
    context.main()
    figures = json.loads((tmp_path / "context.json").read_text())["figures"]
    for budget in ("2", "4"):
        assert [len(runs) for runs in figures["test_bits"][budget].values()] == [2, 2]
    run = figures["test_bits"]["4"]["64"][0]
    assert run["recordings"] == 6
    low, high = run["interval"]
    assert low < run["mean"] < high
    assert min(run["bits"]) < run["mean"] < max(run["bits"])
    assert sum(run["samples"]) <= 1_200


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(command, tmp_path, monkeypatch):
    train_for_steps = context.train_for_steps

    def fails_at_64(recipe, *rest):
        if recipe.length == 64:
            raise RuntimeError("out of memory")
        return train_for_steps(recipe, *rest)

    monkeypatch.setattr(context, "train_for_steps", fails_at_64)
    with pytest.raises(ExceptionGroup, match=r"failed: 2, 64, seed 0, .*4, 64, seed 1"):
        context.main()
    figures = json.loads((tmp_path / "context.json").read_text())["figures"]
    assert {length: len(runs) for length, runs in figures["test_bits"]["2"].items()} == {"32": 2, "64": 0}
