"""Implementations whose speed is compared give the same results."""

import pytest
import torch

from benchmarks.speed import wavernn_speed


@pytest.mark.slow
def test_all_variants_generate_the_same_codes():
    plain, dense, sparse, compiled_dense, compiled_sparse = wavernn_speed.variants(160).values()
    assert type(sparse.R) is not type(dense.R)
    codes = dense.generate(100, seed=3)
    assert len(codes.unique()) > 50
    for other in (plain, sparse, compiled_sparse):
        assert torch.equal(other.generate(100, seed=3), codes)
    unpruned = wavernn_speed.random_wavernn(160).generate(100, seed=3)
    assert torch.equal(compiled_dense.generate(100, seed=3), unpruned)
    assert not torch.equal(unpruned, codes)


def test_the_plain_step_multiplies_by_R_twice_and_the_others_once():
    models, calls = wavernn_speed.variants(32), {}
    for name in ("plain", "dense", "sparse"):
        model, calls[name] = models[name], 0

        def count(*_, name=name):
            calls[name] += 1

        model.R.register_forward_hook(count)
        model.generate(5)
    assert calls == {"plain": 10, "dense": 5, "sparse": 5}


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("block", [(1, 1), (16, 1), (4, 4)])
def test_every_format_gives_the_same_product(block, batch):
    linear = wavernn_speed.pruned_wavernn(32, block).R
    with torch.no_grad():
        dense, *others = (product() for product in wavernn_speed.products(linear, block, batch).values())
    assert len(others) == 2 + (block != (1, 1)) + (block == (4, 4))
    assert all(torch.allclose(other, dense, atol=1e-6) for other in others)


def test_figures_count_the_remaining_weights(monkeypatch):
    monkeypatch.setattr(
        wavernn_speed, "interleaved", lambda steps, _: {name: n for n, name in enumerate(steps, start=1)}
    )
    figures = wavernn_speed.generation((32,), samples=3, repeats=1)["WaveRNN-32"]
    blocks = [round(0.1 * n) for n in (64, 64, 64, 16, 256, 16, 256)]  # of three gates, O1 to O4
    assert figures["weights_not_zero"] == pytest.approx(16 * sum(blocks), abs=16 * len(blocks))
    speed = figures["samples_per_second"]
    assert figures["sparse_over_dense"] == pytest.approx(speed["sparse"] / speed["dense"])
    assert figures["compiled_over_dense"] == pytest.approx(speed["compiled dense"] / speed["dense"])
    assert speed == {
        "plain": 3 / 1,
        "dense": 3 / 2,
        "sparse": 3 / 3,
        "compiled dense": 60 / 4,  # twenty times as many samples a run
        "compiled sparse": 60 / 5,
    }
