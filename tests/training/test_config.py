"""Settings out of range are refused by name; learning rates are those of PyTorch's schedulers."""

import math

import pytest
import torch

from sashimi_lib.training.config import TrainingConfig, plateau
from tests.awkward import without_shape_checks


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"tbptt_length": 0},
        {"valid_every": 0},
        {"early_stopping_patience": 0},
        {"lr": 0.0},
        {"clip_norm": -1.0},
        {"clip_value": 0.0},
        {"decay": "linear"},
        {"precision": "float16"},
        {"plateau_factor": 1.0},
        {"ema": 1.0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(setting):
    name, value = next(iter(setting.items()))
    with without_shape_checks(), pytest.raises(ValueError, match=f"^{name} must .*, got {value!r}"):
        TrainingConfig(**setting)


@pytest.mark.parametrize(("plateau_factor", "plateau_patience"), [(0.5, 0), (0.2, 2), (0.9, 5)])
def test_the_plateau_rule_is_that_of_pytorch(plateau_factor, plateau_patience):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=plateau_factor, patience=plateau_patience, eps=0
    )
    bits = (6 - torch.arange(60).clamp(max=25) / 20 + 0.1 * torch.rand(60)).tolist()
    bits[7] = bits[6] * (1 - 0.5e-4)  # better by less than the threshold
    for n in range(len(bits)):
        scheduler.step(bits[n])
        assert plateau(bits[: n + 1], plateau_factor, plateau_patience) == optimizer.param_groups[0]["lr"]
    assert optimizer.param_groups[0]["lr"] < 1


def test_learning_rates_warm_up_and_decay():
    cosine = TrainingConfig(steps=100, warmup=9, decay="cosine")
    assert [cosine.rate(step) for step in (0, 4)] == pytest.approx([0.1, 0.5], rel=0.01)
    assert cosine.rate(50) == pytest.approx(0.5)
    assert cosine.rate(99) < 0.001
    assert TrainingConfig(warmup=9).rate(99) == 1
    wsd = TrainingConfig(steps=100, warmup=9, decay="wsd", cooldown=0.2)
    assert [wsd.rate(step) for step in (4, 9, 80, 90, 99)] == pytest.approx([0.5, 1, 1, 0.5, 0.05])
    falling = TrainingConfig(warmup=9, decay="plateau", plateau_patience=0)
    assert falling.rate(4, [5.0, 6.0, 6.0]) == pytest.approx(0.5 * 0.2**2)


def test_a_nan_validation_is_not_an_improvement():
    assert plateau([5.0, math.nan, math.nan], plateau_factor=0.5, plateau_patience=1) == 0.5
