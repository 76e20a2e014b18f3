"""Segments of every length give a step as many samples, and a model of each is judged."""

import importlib
import json
from dataclasses import replace

import pytest
import torch

from sashimi_lib.models import SaShiMiConfig
from sashimi_lib.training.recipes import SMALL_SASHIMI


@pytest.fixture
def context(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))  # as when it is run as a script
    return importlib.import_module("context")


@pytest.fixture
def tiny(context):
    recipe = replace(SMALL_SASHIMI, backbone=SaShiMiConfig(d_model=4, n_layers=1))
    return context.Setting(recipe, factor=1.0, lengths=(32, 64), seconds=1, judged=1_300)


def test_every_length_gives_a_step_as_many_samples(context):
    for setting in (context.SMALL, context.FULL):
        assert {recipe.samples_per_step for recipe in setting.recipes().values()} == {max(setting.lengths)}
    assert [recipe.training.batch_size for recipe in context.FULL.recipes().values()] == [8, 4, 2, 1]


@pytest.mark.slow
def test_each_length_is_trained_for_as_long(context, tiny):
    steps = context.equal_time(tiny, {"train": list(torch.randint(100, 150, (2, 640)))}, seconds=0.1)
    assert list(steps) == ["32", "64"]
    assert all(steps.values())


@pytest.fixture
def command(context, tiny, tmp_path, tones, monkeypatch):
    monkeypatch.setattr(context, "SMALL", tiny)
    monkeypatch.setattr("result.RESULTS", tmp_path)
    words = [str(tones(600, sample_rate=200)), "--sample-rate", "200", "--steps", "2", "4", "--seeds", "2"]
    monkeypatch.setattr("sys.argv", ["context.py", *words])


@pytest.mark.slow
def test_every_run_is_judged_on_recordings_that_are_told_apart(context, command, tmp_path):
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
def test_a_run_that_fails_costs_no_other(context, command, tmp_path, monkeypatch):
    learn = context.learn

    def fails_at_64(recipe, *rest):
        if recipe.length == 64:
            raise RuntimeError("out of memory")
        return learn(recipe, *rest)

    monkeypatch.setattr(context, "learn", fails_at_64)
    with pytest.raises(ExceptionGroup, match=r"failed: 2, 64, seed 0, .*4, 64, seed 1"):
        context.main()
    figures = json.loads((tmp_path / "context.json").read_text())["figures"]
    assert {length: len(runs) for length, runs in figures["test_bits"]["2"].items()} == {"32": 2, "64": 0}
