"""A run of several sessions equals an uninterrupted one, and its figures count lost steps once."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.quality import full_run
from sashimi_lib.audio import read
from sashimi_lib.models import SaShiMiConfig
from sashimi_lib.training.recipes import SMALL_SASHIMI
from sashimi_lib.training.train_state import History

TINY = replace(SMALL_SASHIMI, backbone=SaShiMiConfig(d_model=4, n_layers=1), length=64)


@pytest.fixture
def corpus():
    return {split: [torch.randint(100, 150, (640,))] for split in ("train", "valid", "test")}


@pytest.mark.slow
def test_a_run_that_stops_after_every_step_equals_an_uninterrupted_one(corpus, tmp_path):
    *_, whole = full_run.train_session(TINY, corpus, tmp_path / "whole", 1, 1, steps=3)
    for _ in range(3):  # no time at all: a session ends after the step it is in
        *_, parts = full_run.train_session(TINY, corpus, tmp_path / "parts", 0, 1, steps=3)
    for figures in (whole, parts):
        assert figures["steps"] == figures["steps_planned"] == 3
        assert figures["epochs"] == 6 / 10
    assert [row["bits"] for row in parts["curve"]] == [row["bits"] for row in whole["curve"]]
    assert [row["bits"] for row in parts["validations"]] == [row["bits"] for row in whole["validations"]]
    assert whole["resumed"] == []
    assert [row["steps"] for row in parts["resumed"]] == [1, 2]


def test_the_number_of_steps_is_fixed_when_the_run_begins(corpus, tmp_path):
    *_, first = full_run.train_session(TINY, corpus, tmp_path, 0, total=0.01)
    *_, second = full_run.train_session(TINY, corpus, tmp_path, 0, total=100)
    assert first["steps_planned"] == second["steps_planned"] > 1
    assert first["timed_seconds_per_step"] == second["timed_seconds_per_step"]


def test_steps_that_were_lost_and_repeated_count_once_and_their_time_twice():
    times = [full_run.StepTime(0, step, 1.0 + step) for step in range(5)]  # cut off: the checkpoint has three
    times += [full_run.StepTime(1, step, 5.0 + step) for step in range(3, 6)]
    figures = full_run.summarize_run(History([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], [(6, 1.5)]), times, 10)
    assert [row["seconds"] for row in figures["curve"]] == [1, 2, 3, 8, 9, 10]
    assert (figures["seconds"], figures["samples_per_second"]) == (10, 6.0)
    assert figures["validations"] == [{"steps": 6, "seconds": 10.0, "bits": 1.5}]
    assert figures["resumed"] == [
        {"steps": 3, "seconds": 3.0, "bits_before": [6.0, 5.0, 4.0], "bits_after": [3.0, 2.0, 1.0]}
    ]


def test_the_curve_has_nearly_equal_ranges_that_cover_all_steps():
    parts = full_run.split_range(1003, 100)
    assert [step for part in parts for step in part] == list(range(1003))
    assert {len(part) for part in parts} == {10, 11}
    assert full_run.split_range(3, 100) == [range(1), range(1, 2), range(2, 3)]


@pytest.fixture
def small_run(tmp_path, tones, monkeypatch):
    """Six recordings in each folder, and a run of two steps of a tiny model."""
    folder = tones(6_000, sample_rate=600)
    monkeypatch.setattr(full_run, "suitable_recipe", lambda: TINY)
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    command = [
        str(folder),
        "--sample-rate",
        "600",
        "--run",
        str(tmp_path / "run"),
        "--steps",
        "2",
    ]
    monkeypatch.setattr("sys.argv", ["full_run.py", *command])


@pytest.mark.slow
def test_a_small_run_is_evaluated_and_sampled(small_run, tmp_path):
    full_run.main()
    figures = json.loads((tmp_path / "full_run.json").read_text())["figures"]
    low, high = figures["test_bits"]["interval"]
    assert low < figures["test_bits"]["mean"] < high
    assert figures["test_bits"]["samples"] == [4_800] * 6
    assert figures["test_samples"] == 28_800
    assert 1 < figures["bigram_bits"] < 6  # the tone is not certain, and far from noise
    assert len(figures["clips"]) == 4
    assert all(read(tmp_path / clip)[0].shape == (1_200,) for clip in figures["clips"])


@pytest.mark.slow
def test_figures_are_written_before_generation_fails(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(full_run, "best_engine", lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        full_run.main()
    figures = json.loads((tmp_path / "full_run.json").read_text())["figures"]
    assert figures["test_bits"]["recordings"] == 6
