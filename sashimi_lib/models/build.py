"""A configuration becomes a backbone, or a denoiser: the one place that knows which belongs to which.

A WaveRNN is no backbone but a whole model: `sashimi_lib.models.audio_lm.new_model` makes either kind.
"""

from sashimi_lib.models.backbone import Backbone
from sashimi_lib.models.denoiser import Denoiser
from sashimi_lib.models.diffwave import DiffWave, DiffWaveConfig
from sashimi_lib.models.isotropic import IsotropicConfig, IsotropicS4
from sashimi_lib.models.samplernn import SampleRNN, SampleRNNConfig
from sashimi_lib.models.sashimi import SaShiMi, SaShiMiConfig
from sashimi_lib.models.sashimi_unet import SaShiMiUNet, SaShiMiUNetConfig
from sashimi_lib.models.wavenet import WaveNet, WaveNetConfig

Config = SaShiMiConfig | IsotropicConfig | WaveNetConfig | SampleRNNConfig
AnyDenoiserConfig = SaShiMiUNetConfig | DiffWaveConfig


def build(config: Config) -> Backbone:
    """A new backbone of that shape, which keeps it as its ``config``.

    >>> build(SaShiMiConfig(d_model=8, n_layers=1)).config
    SaShiMiConfig(d_model=8, n_layers=1, ...)

    Chapter: 7.
    """
    match config:
        case SaShiMiConfig():
            return SaShiMi(config)
        case IsotropicConfig():
            return IsotropicS4(config)
        case WaveNetConfig():
            return WaveNet(config)
        case SampleRNNConfig():
            return SampleRNN(config)


def new_denoiser(config: AnyDenoiserConfig) -> Denoiser:
    """A new network of that shape for a diffusion model, which keeps it as its ``config``.

    >>> new_denoiser(DiffWaveConfig(d_residual=8, n_layers=4, cycle=4)).config.receptive_field
    31

    Chapter: 9.
    """
    match config:
        case SaShiMiUNetConfig():
            return SaShiMiUNet(config)
        case DiffWaveConfig():
            return DiffWave(config)
