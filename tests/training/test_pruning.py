"""Pruning follows the paper's schedule, survives training and interruptions, and ends at its target."""

import itertools

import pytest
import torch
from torch.nn.utils import parametrize

from sashimi_lib.models import WaveRNN, WaveRNNConfig
from sashimi_lib.models.sparse import LAYERS
from sashimi_lib.training.pruning import Pruner, PruningConfig, magnitude_mask
from sashimi_lib.training.trainer import TrainingConfig, train

PRUNING = PruningConfig(sparsity=0.75, block=(4, 4), start=2, ramp=8, every=2)
CONFIG = TrainingConfig(steps=14, batch_size=2, lr=0.01, weight_decay=0.1, checkpoint_every=4)


@pytest.fixture
def data():
    t = torch.arange(24) + 5 * torch.arange(5)[:, None]
    return new_model().quantizer.encode(0.5 * torch.sin(0.4 * t))


def new_model():
    torch.manual_seed(1)
    return WaveRNN(WaveRNNConfig(d_hidden=32))


def zeros(weight):
    return float((weight == 0).float().mean())


def matrices(model):
    """Return the matrices that are pruned separately."""
    return [*model.R.weight.chunk(3), *(getattr(model, name).weight for name in LAYERS[1:])]


@pytest.mark.parametrize(
    ("steps", "sparsity"), [(0, 0), (1000, 0), (101_000, 0.7875), (201_000, 0.9), (10**6, 0.9)]
)
def test_the_schedule_is_that_of_the_paper(steps, sparsity):
    expected = pytest.approx(sparsity)  # 0.9 (1 - 1/8) half way
    assert PruningConfig(sparsity=0.9).target_sparsity(steps) == expected


@pytest.mark.parametrize("block", [(1, 1), (16, 1), (4, 4), (1, 8)])
def test_the_blocks_of_smallest_mean_magnitude_are_pruned(block):
    weight, (height, width) = torch.randn(48, 32), block
    mask = magnitude_mask(weight, 0.3, block)
    means, kept = [], []
    for row in range(0, 48, height):
        for column in range(0, 32, width):
            tile = slice(row, row + height), slice(column, column + width)
            assert mask[tile].all() or not mask[tile].any()
            means.append(float(weight[tile].abs().mean()))
            kept.append(bool(mask[tile].all()))
    assert kept.count(False) == round(0.3 * len(kept))
    assert max(m for m, k in zip(means, kept, strict=True) if not k) < min(
        m for m, k in zip(means, kept, strict=True) if k
    )


def test_each_gate_and_layer_has_the_same_sparsity():
    model = new_model()
    with torch.no_grad():
        model.R.weight[:32] *= 100  # in a ranking of all gates, none of u would be pruned
    Pruner(model, PRUNING).prune(0.5)
    assert [zeros(matrix) for matrix in matrices(model)] == [0.5] * 7


def test_training_prunes_as_scheduled_and_zeros_stay_zero(data):
    model, seen = new_model(), []
    pruner = Pruner(model, PRUNING)

    def step(index, loss):
        pruner(index, loss)
        seen.append([matrix.detach() == 0 for matrix in matrices(model)])

    train(model, data, CONFIG, on_step=step, progress=False)
    for index, masks in enumerate(seen):
        sparsity = PRUNING.target_sparsity((index + 1) // 2 * 2)
        for mask in masks:
            assert float(mask.float().mean()) == pytest.approx(sparsity, abs=0.5 * 16 / mask.numel() + 1e-7)
    for before, after in itertools.pairwise(seen):
        assert all((a >= b).all() for a, b in zip(after, before, strict=True))
    assert seen[0][0].sum() == 0 < seen[5][0].sum() < seen[-1][0].sum()


def test_gradients_of_pruned_weights_are_zero_and_others_are_not(data):
    model = new_model()
    Pruner(model, PRUNING).prune(0.5)
    model.log_likelihood(data).mean().backward()
    for name in LAYERS:
        layer = getattr(model, name)
        gradient = layer.parametrizations.weight.original.grad
        assert (gradient[layer.weight == 0] == 0).all()
        assert (gradient[layer.weight != 0] != 0).float().mean() > 0.5


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("ema", [0.0, 0.8])
@pytest.mark.parametrize("last", [3, 6, 7, 11])  # at and between checkpoints and prunings
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(data, tmp_path, ema, last):
    config = TrainingConfig(steps=14, batch_size=2, lr=0.01, ema=ema, checkpoint_every=4)
    whole, killed, resumed = new_model(), new_model(), new_model()
    history = train(whole, data, config, on_step=Pruner(whole, PRUNING), progress=False)
    pruner = Pruner(killed, PRUNING)

    def stop(step, bits):
        if step == last + 1:
            raise Interrupted
        pruner(step, bits)

    with pytest.raises(Interrupted):
        train(killed, data, config, tmp_path / "run.pt", on_step=stop, progress=False)
    after = Pruner(resumed, PRUNING)
    assert train(resumed, data, config, tmp_path / "run.pt", on_step=after, progress=False) == history
    expected = whole.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in resumed.state_dict().items())
    assert zeros(resumed.R.weight) == 0.75


def test_a_checkpoint_holds_the_pruning_of_its_own_step(data, tmp_path):
    config = TrainingConfig(steps=10, batch_size=2, checkpoint_every=10)
    model, loaded = new_model(), new_model()
    train(model, data, config, tmp_path / "run.pt", on_step=Pruner(model, PRUNING), progress=False)
    pruner = Pruner(loaded, PRUNING)
    loaded.load_state_dict(torch.load(tmp_path / "run.pt", weights_only=True)["model"])
    pruner.bake_masks()
    assert zeros(loaded.R.weight) == 0.75


@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_baking_masks_leaves_an_ordinary_model_with_equal_outputs(data, ema):
    model = new_model()
    pruner = Pruner(model, PRUNING)
    train(model, data, TrainingConfig(steps=10, ema=ema), on_step=pruner, progress=False)
    with torch.no_grad():
        before = model.log_likelihood(data)
        pruner.bake_masks()
        assert torch.equal(model.log_likelihood(data), before)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert [zeros(matrix) for matrix in matrices(model)] == [0.75] * 7
    new_model().load_state_dict(model.state_dict())


def test_a_best_model_from_before_the_end_of_pruning_is_refused(data):
    noise = torch.randint(256, (2, 24, 2))  # this loss rises in training
    for valid_every, sparse in ((3, False), (10, True)):
        config = TrainingConfig(steps=20, batch_size=2, lr=0.01, valid_every=valid_every)
        model = new_model()
        pruner = Pruner(model, PRUNING)
        history = train(model, data, config, valid=noise, on_step=pruner, progress=False)
        assert (history.best[0] >= 10) == sparse
        if sparse:
            pruner.bake_masks()
            assert zeros(model.R.weight) == 0.75
        else:
            weight = model.R.weight.detach().clone()
            with pytest.raises(ValueError, match=r"model must have a sparsity of 75\.0% in R, got"):
                pruner.bake_masks()
            assert torch.equal(model.R.weight, weight)


def test_a_block_size_that_does_not_fit_is_refused_and_nothing_changes():
    model = new_model()
    with pytest.raises(ValueError, match=r"block must divide a matrix of \(16, 16\), got \(32, 1\)"):
        Pruner(model, PruningConfig(block=(32, 1)))
    assert not parametrize.is_parametrized(model.R)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must lie in \[0, 1\), got 1.0"),
        ({"block": (0, 1)}, "block must be at least 1"),
        ({"start": -1}, "start must be at least 0, got -1"),
        ({"ramp": 0}, "ramp must be at least 1, got 0"),
        ({"every": 0}, "every must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting, message):
    with pytest.raises(ValueError, match=message):
        PruningConfig(**setting)
