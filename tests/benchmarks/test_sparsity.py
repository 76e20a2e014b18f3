"""The comparison of pruned models in miniature: as sparse as asked, as small as asked, drawn from in turn."""

import importlib

import pytest
import torch

from sashimi_lib.models import WaveRNN, WaveRNNConfig
from sashimi_lib.training.config import TrainingConfig


@pytest.fixture
def sparsity(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))  # as when it is run as a script
    return importlib.import_module("sparsity")


def test_a_run_ends_as_sparse_as_asked_and_generates(sparsity):
    data = [torch.randint(0, 256, (20, 2)) for _ in range(4)]
    config = TrainingConfig(steps=10, batch_size=2)
    dense = sparsity.learn(32, 0.0, data, config)
    pruned = sparsity.learn(32, 0.5, data, config)
    assert float((dense.R.weight == 0).float().mean()) == 0
    assert float((pruned.R.weight == 0).float().mean()) == 0.5
    assert sparsity.weights(pruned) < sparsity.weights(dense)
    speeds = sparsity.generation({"dense": dense, "50%": pruned}, length=5, rounds=1)
    assert speeds.keys() == {"dense", "50%"}
    assert min(speeds.values()) > 0


@pytest.mark.slow
def test_a_small_dense_model_has_about_as_many_weights(sparsity):
    target = 50_000
    size = sum(p.numel() for p in WaveRNN(WaveRNNConfig(sparsity.as_small_as(target))).parameters())
    assert abs(size - target) < 0.1 * target
