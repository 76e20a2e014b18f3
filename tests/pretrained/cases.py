"""Small models of every kind that can be saved, and files of them with faults."""

import pytest
import torch
from safetensors import safe_open

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.diffusion.schedules import CosineSchedule, LogSNRSchedule
from sashimi_lib.models import (
    DiffWaveConfig,
    IsotropicConfig,
    SampleRNNConfig,
    SaShiMiConfig,
    Subscale,
    SubscaleConfig,
    WaveNetConfig,
    WaveRNNConfig,
)
from sashimi_lib.models.sashimi_unet import SaShiMiUNetConfig
from sashimi_lib.models.vocoder import Vocoder
from sashimi_lib.pretrained import load
from sashimi_lib.ssm.s4 import Form, SSMConfig
from sashimi_lib.storage.tensor_file import write_tensors

DIAGONAL = SSMConfig(d_state=8, form=Form.DIAGONAL, init="lin", tied=False)
BACKBONES = {
    "sashimi": SaShiMiConfig(d_model=4, n_layers=1, pool=(2, 4), norm="layer"),
    "u-net": SaShiMiConfig(d_model=4, n_layers=1, unet=True, glu=True, ssm=DIAGONAL),
    "isotropic": IsotropicConfig(d_model=4, n_layers=1, norm="layer", ssm=SSMConfig(d_state=4)),
    "wavenet": WaveNetConfig(2, 3, 8, 8, 16, 16, 8),
    "samplernn": SampleRNNConfig((4, 2), 2, 16, 8),
}
DIFFUSION = {
    "diffwave": DiffusionConfig(DiffWaveConfig(d_residual=4, d_skip=4, n_layers=2, d_step=(4, 6, 8))),
    "sashimi of classes": DiffusionConfig(
        SaShiMiUNetConfig(
            d_model=4, n_layers=1, pool=(2, 5), d_step=(4, 6, 8), n_classes=3, ssm=DIAGONAL,
            direction="concat",
        ),
        CosineSchedule(30), "velocity",
    ),
    "vocoder of classes": DiffusionConfig(
        DiffWaveConfig(
            d_residual=4, d_skip=4, n_layers=2, d_step=(4, 6, 8), n_classes=2,
            mel=LogMelConfig(8000, n_mels=8, hop=20, window=256),
        ),
        LogSNRSchedule(40),
    ),
}  # fmt: skip


def random_diffusion_model(name):
    """A diffusion model with random weights: the output of a new one is zero."""
    model = DiffusionModel(DIFFUSION[name])
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def new_vocoder():
    return Vocoder(WaveRNNConfig(12, d_conditioning=3), LogMelConfig(8000, n_mels=8, hop=20, window=256))


def new_subscale():
    return Subscale(SubscaleConfig(12, factor=4, lookahead=1, d_conditioning=3, layers=2, levels=16))


def contents(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def rewrite(path, tensors, metadata):
    """Write a file with a valid checksum."""
    write_tensors(path, metadata["sashimi_lib"], metadata["header"], tensors)


def refused(path, because):
    with pytest.raises(ValueError, match=because) as caught:
        load(path)
    assert str(path) in str(caught.value)
