"""The fused optimizer, as on a GPU, does not raise the version of parameters; cached kernels are renewed."""

import pytest
import torch

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.sashimi_unet import SaShiMiUNetConfig
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.optimizer import parameter_groups
from sashimi_lib.training.trainer import train
from sashimi_lib.training.validation import validation_loss
from tests.training.backbones import BACKBONES

CONFIG = TrainingConfig(steps=6, batch_size=2, lr=0.02, ssm_lr=0.02, valid_every=2)


def new_model(name):
    torch.manual_seed(1)
    if name in BACKBONES:
        return AudioLM(MuLaw(), BACKBONES[name]())
    return DiffusionModel(DiffusionConfig(SaShiMiUNetConfig(d_model=4, n_layers=1, d_step=(8, 8, 8))))


def sequences(model, count):
    torch.manual_seed(count)
    if isinstance(model, AudioLM):
        return list(torch.randint(256, (count, 80)))
    return list(0.3 * torch.randn(count, 80).clamp(-3, 3))


@pytest.mark.parametrize("name", ["sashimi", "isotropic", "diffusion sashimi"])
def test_validation_while_training_is_that_of_a_fresh_model_with_the_same_weights(name, monkeypatch):
    monkeypatch.setattr(
        "sashimi_lib.training.train_state.new_optimizer",
        lambda model, config: torch.optim.AdamW(parameter_groups(model, config), fused=True),
    )
    model, weights = new_model(name), []

    def note(step, loss):
        weights.append({name: x.clone() for name, x in model.state_dict().items()})

    data, valid = sequences(model, 4), sequences(model, 3)
    history = train(model, data, CONFIG, valid=valid, on_step=note, progress=False)
    assert [steps for steps, _ in history.valid] == [2, 4, 6]
    for steps, loss in history.valid:
        fresh = new_model(name)
        fresh.load_state_dict(weights[steps - 1])
        assert loss == pytest.approx(validation_loss(fresh, valid, CONFIG.batch_size), abs=1e-6)
    assert len({loss for _, loss in history.valid}) == 3
