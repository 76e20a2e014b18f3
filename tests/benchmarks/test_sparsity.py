"""Pruned models have the requested sparsity, dense ones the requested size; speeds are timed in turn."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.quality import sparsity
from sashimi_lib.models import WaveRNN, WaveRNNConfig
from sashimi_lib.training.config import TrainingConfig


def test_a_run_ends_with_the_requested_sparsity():
    data = [torch.randint(0, 256, (20, 2)) for _ in range(4)]
    config = TrainingConfig(steps=10, batch_size=2)
    dense = sparsity.train_and_prune(32, 0.0, data, config)
    pruned = sparsity.train_and_prune(32, 0.5, data, config)
    assert float((dense.R.weight == 0).float().mean()) == 0
    assert float((pruned.R.weight == 0).float().mean()) == 0.5
    assert sparsity.nonzero_weights(pruned) < sparsity.nonzero_weights(dense)


def test_speeds_are_medians_of_turns_after_a_warm_up(monkeypatch):
    clock, took = [0.0], iter([9.0, 9.0, 1.0, 2.0, 4.0, 2.0, 1.0, 5.0])
    models = {name: SimpleNamespace(generate=lambda *_, seed: next(turns)) for name in ("dense", "50%")}
    turns = (clock.__setitem__(0, clock[0] + seconds) for seconds in took)
    monkeypatch.setattr(sparsity.time, "process_time", lambda: clock[0])
    assert sparsity.generation(models, length=100, rounds=3) == {"dense": 100.0, "50%": 50.0}


@pytest.mark.slow
def test_a_small_dense_model_has_about_as_many_weights():
    target = 50_000
    size = sum(p.numel() for p in WaveRNN(WaveRNNConfig(sparsity.hidden_size_of(target))).parameters())
    assert abs(size - target) < 0.1 * target


@pytest.fixture
def command(tmp_path, tones, monkeypatch):
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    monkeypatch.setattr(sparsity, "generation", lambda models, *_, rounds: dict.fromkeys(models, 7.0))
    words = [
        str(tones(100, sample_rate=8000, train=2)),
        "--sample-rate",
        "8000",
        "--hidden",
        "32",
        "--steps",
        "2",
    ]
    monkeypatch.setattr("sys.argv", ["sparsity.py", *words, "--batch-size", "2"])
    return tmp_path / "sparsity.json"


@pytest.mark.slow
def test_all_are_evaluated_on_every_recording(command):
    sparsity.main()
    models = json.loads(command.read_text())["figures"]["models"]
    assert list(models)[:5] == ["0%", "50%", "80%", "90%", "95%"]
    for row in models.values():
        assert row["test_bits"]["samples"] == [100, 101, 102, 103, 104, 105]
        low, high = row["test_bits"]["interval"]
        assert low < row["test_bits"]["mean"] < high
        assert row["samples_per_second"] == 7.0


@pytest.mark.slow
def test_a_model_that_fails_stops_only_itself_and_those_that_depend_on_it(command, monkeypatch):
    train_and_prune = sparsity.train_and_prune

    def fails_at_90(hidden, share, *rest):
        if share == 0.9:
            raise RuntimeError("out of memory")
        return train_and_prune(hidden, share, *rest)

    monkeypatch.setattr(sparsity, "train_and_prune", fails_at_90)
    with pytest.raises(ExceptionGroup, match="failed: 90%, as small as 90%"):
        sparsity.main()
    models = json.loads(command.read_text())["figures"]["models"]
    assert list(models)[:4] == ["0%", "50%", "80%", "95%"]
    assert len(models) == 5
    assert all("samples_per_second" in row for row in models.values())
