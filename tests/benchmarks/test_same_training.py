"""Training on two devices is compared, and a model that validates stale weights is detected."""

import copy
import json
from dataclasses import dataclass, replace

import pytest
import torch

from benchmarks.numerics import same_training
from sashimi_lib.models import SaShiMiConfig
from sashimi_lib.training import recipes
from sashimi_lib.training.recipes import Recipe

pytestmark = pytest.mark.slow

TINY = replace(recipes.SMALL_SASHIMI, backbone=SaShiMiConfig(d_model=4, n_layers=1, pool=(2,)))


@dataclass(frozen=True)
class Stale(Recipe):
    """A recipe of a model that is validated with the weights of its first validation ever after."""

    def build(self, seed):
        model, stored = super().build(seed), []
        loss = model.loss

        def stale(*inputs):
            if torch.is_grad_enabled():
                return loss(*inputs)
            if not stored:
                stored.append(super(Stale, self).build(seed))
                stored[0].load_state_dict(copy.deepcopy(model.state_dict()))
            return stored[0].loss(*inputs)

        model.loss = stale
        return model


def test_a_device_agrees_with_itself():
    figures = same_training.compare_devices(TINY, 64, "cpu")
    assert figures["agrees"]
    assert figures["differences"]["losses"] == 0
    assert len(figures["losses"]["device"]) == same_training.STEPS
    assert len(figures["validations"]["during"]) == same_training.STEPS // same_training.EVERY
    assert figures["losses"]["cpu"][-1] < figures["losses"]["cpu"][0]


def test_a_model_that_is_validated_with_earlier_weights_is_detected():
    figures = same_training.compare_devices(Stale(**vars(TINY)), 64, "cpu")
    assert not figures["agrees"]
    assert figures["differences"]["validation_anew"] > 100 * same_training.VALIDATION
    assert figures["differences"]["losses"] == 0


def test_different_training_is_detected(monkeypatch):
    train_on = same_training.train_on

    def otherwise(recipe, data, device):
        faster = replace(recipe, training=replace(recipe.training, lr=2 * recipe.training.lr))
        return train_on(faster if device == "meta" else recipe, data, "cpu")

    monkeypatch.setattr(same_training, "train_on", otherwise)
    monkeypatch.setattr(same_training, "validate_anew", lambda *_: 1.0)
    figures = same_training.compare_devices(TINY, 64, "meta")
    assert figures["differences"]["losses"] > 10 * same_training.LOSS
    assert not figures["agrees"]


@pytest.mark.parametrize(("recipe", "code"), [(TINY, 0), (Stale(**vars(TINY)), 1)], ids=["well", "stale"])
def test_the_command_writes_its_result_and_exits_with_1_without_agreement(
    monkeypatch, tmp_path, recipe, code
):
    monkeypatch.setattr(same_training, "MODELS", {"tiny": recipe})
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["same_training.py", "--quick"])
    with pytest.raises(SystemExit) as end:
        same_training.main()
    assert end.value.code == code
    figures = json.loads((tmp_path / "same_training_quick.json").read_text())["figures"]
    assert figures["tiny"]["agrees"] == (code == 0)
