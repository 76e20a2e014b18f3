"""Segments of every length give a step as many samples, and a model of each is judged."""

import importlib
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
    return context.Setting(recipe, factor=1.0, lengths=(32, 64), seconds=1, judged=1_000)


@pytest.fixture
def corpus():
    return {split: list(torch.randint(100, 150, (2, 640))) for split in ("train", "test")}


def test_every_length_gives_a_step_as_many_samples(context):
    for setting in (context.SMALL, context.FULL):
        assert {recipe.samples_per_step for recipe in setting.recipes().values()} == {max(setting.lengths)}
    assert [recipe.training.batch_size for recipe in context.FULL.recipes().values()] == [8, 4, 2, 1]


def test_each_length_is_trained_for_as_long_and_judged(context, tiny, corpus):
    steps = context.equal_time(tiny, corpus, seconds=0.1)
    assert list(steps) == ["32", "64"]
    assert all(steps.values())
    runs = context.compare(tiny, corpus, steps, seeds=2)
    assert [len(runs[length]) for length in ("32", "64")] == [2, 2]
    assert all(0 < run["low"] <= run["mean"] <= run["high"] < 12 for each in runs.values() for run in each)
