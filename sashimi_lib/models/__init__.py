"""Sequence models: SaShiMi, isotropic S4, WaveNet, SampleRNN, and the blocks they are made of.

Each takes and gives features ``(batch, length, d_model)`` by three methods: ``forward(x, state=None) -> (y,
state)``, ``step(x_t, state) -> (y_t, state)`` and ``initial_state(batch_size)``. A state is an argument and a
result.
"""

from sashimi_lib.models.backbone import Backbone, BackboneConfig
from sashimi_lib.models.denoiser import Denoiser, DenoiserConfig
from sashimi_lib.models.diffwave import DiffWave, DiffWaveConfig
from sashimi_lib.models.isotropic import IsotropicConfig, IsotropicS4
from sashimi_lib.models.samplernn import SampleRNN, SampleRNNConfig
from sashimi_lib.models.sampling import SamplingConfig
from sashimi_lib.models.sashimi import SaShiMi, SaShiMiConfig
from sashimi_lib.models.sashimi_unet import SaShiMiUNet, SaShiMiUNetConfig
from sashimi_lib.models.subscale import Subscale, SubscaleConfig
from sashimi_lib.models.wavenet import WaveNet, WaveNetConfig
from sashimi_lib.models.wavernn import WaveRNN, WaveRNNConfig

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Denoiser",
    "DenoiserConfig",
    "DiffWave",
    "DiffWaveConfig",
    "IsotropicConfig",
    "IsotropicS4",
    "SaShiMi",
    "SaShiMiConfig",
    "SaShiMiUNet",
    "SaShiMiUNetConfig",
    "SampleRNN",
    "SampleRNNConfig",
    "SamplingConfig",
    "Subscale",
    "SubscaleConfig",
    "WaveNet",
    "WaveNetConfig",
    "WaveRNN",
    "WaveRNNConfig",
]
