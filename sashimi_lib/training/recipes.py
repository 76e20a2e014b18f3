"""Recipes: the model, data format and training settings of every experiment (chapters 7 to 9).

Names are ``CORPUS_MODEL_SIZE``. Beethoven, YouTubeMix and SC09 are the SaShiMi paper's (tables 2, 4, 5 and 6;
appendix C.2, and the published configurations), and so is LJSpeech (the published configurations alone);
``SMALL_`` and ``DIGITS_`` are ours, small enough to train on a CPU.

Where the sources are incomplete or disagree, these are the choices:

- The patience of published schedules is in epochs, here in validations. For Beethoven and YouTubeMix
  ``valid_every`` is an epoch of the published split at one segment a step (within 3 % of that of SampleRNN,
  with batches of 128 segments in chunks); for SC09 it is 2,500 steps, since its number of clips is unclear.
- The number of steps is known only for SaShiMi (one source has 500 epochs for table 5); the others have the
  same.
- The real part of Lambda is negative by construction. The paper left it unconstrained, found it stable in
  practice, and names the constraint as a full guarantee.
- SampleRNN's chunks of 1,024 samples do not overlap; the published ones overlapped by 32.
- For WaveRNN the sources give the number of steps, the 24 kHz and the sequences of 960 samples; the other
  settings are ours.
- The training of diffusion models is published; the learning rate of the large SaShiMi was halved by hand
  half way, which is not reproduced. The published vocoder has mel bands up to 8 kHz, and upsampling layers in
  every block, with 5,686 parameters in all; here bands reach half the sample rate, and blocks share two
  layers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.audio.quantizers import CoarseFine, Linear, MuLaw, Quantizer
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.diffusion.schedules import CosineSchedule, LinearSchedule
from sashimi_lib.models import (
    DiffWaveConfig,
    IsotropicConfig,
    SampleRNNConfig,
    SaShiMiConfig,
    WaveNetConfig,
    WaveRNN,
    WaveRNNConfig,
)
from sashimi_lib.models.audio_lm import AudioLM, ModelConfig, new_model
from sashimi_lib.models.sashimi_unet import PAPER_UNET, PAPER_UNET_SMALL, SaShiMiUNetConfig
from sashimi_lib.ssm.s4 import PAPER_SSM, Form, SSMConfig
from sashimi_lib.training.config import TrainingConfig

Model = TypeVar("Model")


@dataclass(frozen=True)
class Recipe:
    """The configuration of a model of codes and its training: the backbone or WaveRNN, the quantizer,
    ``sample_rate`` in Hz, the ``length`` of a training sequence in samples, and the settings of
    `sashimi_lib.training.trainer.train`.

    >>> recipe = SMALL_SASHIMI
    >>> model = recipe.build(seed=0)
    >>> codes = torch.full((2, recipe.length), model.quantizer.silence)
    >>> model.log_likelihood(codes[:, :64]).shape
    torch.Size([2, 64])

    Chapters: 7 and 8.
    """

    backbone: ModelConfig
    quantizer: Quantizer
    sample_rate: int
    length: int
    training: TrainingConfig

    @property
    def samples_per_step(self) -> int:
        """The number of samples in a training step."""
        return self.training.samples_per_step(self.length)

    def build(self, seed: int) -> AudioLM | WaveRNN:
        """Return a new model, initialized from ``seed``. The random state of the caller is preserved.

        >>> a, b = SMALL_SASHIMI.build(seed=1), SMALL_SASHIMI.build(seed=1)
        >>> torch.equal(a.head.weight, b.head.weight)
        True
        """
        return _seeded(seed, lambda: new_model(self.backbone, self.quantizer))


@dataclass(frozen=True)
class DiffusionRecipe:
    """The configuration of a diffusion model, of waveforms without a quantizer, and its training.

    >>> recipe = DIGITS_DIFFUSION_SASHIMI
    >>> model = recipe.build(seed=0)
    >>> loss, _ = model.loss(torch.zeros(2, 64), label=torch.tensor([3, 7]))
    >>> loss.shape
    torch.Size([2, 64])

    Chapter: 9.
    """

    config: DiffusionConfig
    sample_rate: int
    length: int
    training: TrainingConfig

    def build(self, seed: int) -> DiffusionModel:
        """Return a new model, initialized from ``seed``. The random state of the caller is preserved."""
        return _seeded(seed, lambda: DiffusionModel(self.config))


def _seeded(seed: int, make: Callable[[], Model]) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()


def _wavenet(recipe: Recipe, backbone: WaveNetConfig) -> Recipe:
    """Return a recipe for WaveNet on the data of another recipe, with the paper's settings."""
    return replace(recipe, backbone=backbone, training=replace(recipe.training, lr=0.001, plateau_patience=5))


def _samplernn(recipe: Recipe, backbone: SampleRNNConfig) -> Recipe:
    """Return a recipe for SampleRNN on the data of another recipe, with the paper's settings."""
    training = replace(recipe.training, lr=0.001, batch_size=128, tbptt_length=1024, clip_value=1.0)
    return replace(recipe, backbone=backbone, training=training)


_PAPER = TrainingConfig(
    batch_size=1, decay="plateau", plateau_factor=0.2, plateau_patience=20, checkpoint_every=1_000
)

BEETHOVEN_SASHIMI_8 = Recipe(
    SaShiMiConfig(), Linear(), 16_000, 128_000, replace(_PAPER, steps=1_000_000, valid_every=3_808)
)
BEETHOVEN_WAVENET_1024 = _wavenet(BEETHOVEN_SASHIMI_8, WaveNetConfig())
BEETHOVEN_SAMPLERNN_3 = _samplernn(BEETHOVEN_SASHIMI_8, SampleRNNConfig())

YOUTUBEMIX_SASHIMI_8 = Recipe(
    SaShiMiConfig(), MuLaw(), 16_000, 131_072, replace(_PAPER, steps=600_000, valid_every=1_696)
)
YOUTUBEMIX_SASHIMI_6 = replace(YOUTUBEMIX_SASHIMI_8, backbone=SaShiMiConfig(n_layers=6))
YOUTUBEMIX_SASHIMI_4 = replace(YOUTUBEMIX_SASHIMI_8, backbone=SaShiMiConfig(n_layers=4))
YOUTUBEMIX_SASHIMI_2 = replace(YOUTUBEMIX_SASHIMI_8, backbone=SaShiMiConfig(n_layers=2))
YOUTUBEMIX_ISOTROPIC_8 = replace(YOUTUBEMIX_SASHIMI_8, backbone=IsotropicConfig())
YOUTUBEMIX_ISOTROPIC_4 = replace(YOUTUBEMIX_SASHIMI_8, backbone=IsotropicConfig(n_layers=4))
YOUTUBEMIX_WAVENET_1024 = _wavenet(YOUTUBEMIX_SASHIMI_8, WaveNetConfig())
YOUTUBEMIX_WAVENET_512 = _wavenet(YOUTUBEMIX_SASHIMI_8, WaveNetConfig(d_skip=512))
YOUTUBEMIX_SAMPLERNN_3 = _samplernn(YOUTUBEMIX_SASHIMI_8, SampleRNNConfig())
YOUTUBEMIX_SAMPLERNN_2 = _samplernn(YOUTUBEMIX_SASHIMI_8, SampleRNNConfig((16, 4), n_rnn=2))

SC09_SASHIMI_8 = Recipe(
    SaShiMiConfig(glu=True), MuLaw(), 16_000, 16_000,
    replace(_PAPER, batch_size=8, steps=1_100_000, valid_every=2_500),
)  # fmt: skip
SC09_WAVENET_1024 = _wavenet(SC09_SASHIMI_8, WaveNetConfig())
SC09_SAMPLERNN_3 = _samplernn(SC09_SASHIMI_8, SampleRNNConfig())
# The authors' later model, in their README and not in the paper: all of S4 trains, each channel has its own.
SC09_SASHIMI_UNET_8 = replace(
    SC09_SASHIMI_8,
    backbone=SaShiMiConfig(glu=True, unet=True, ssm=SSMConfig(tied=False)),
    training=TrainingConfig(
        steps=200_000, batch_size=16, lr=0.001, weight_decay=0.1, warmup=1_000, decay="cosine",
        valid_every=2_500, checkpoint_every=1_000,
    ),
)  # fmt: skip

# Ours, for one CPU core and minutes: piano at 16 kHz. WaveNet is half as wide as the paper's in every part,
# with the same receptive field, and three times SaShiMi's size as there; the tiny one has SaShiMi's size.
# Batches are small, for many steps. SaShiMi has batches of two, since the cost of its kernels is per step.
_SMALL = TrainingConfig(steps=1_000, batch_size=1, warmup=20, decay="cosine", valid_every=250)
_SMALL_SSM = replace(PAPER_SSM, d_state=32)
SMALL_SASHIMI = Recipe(
    SaShiMiConfig(d_model=32, n_layers=2, ssm=_SMALL_SSM), MuLaw(), 16_000, 4_096,
    replace(_SMALL, batch_size=2, lr=0.008, ssm_lr=0.004),
)  # fmt: skip
SMALL_ISOTROPIC = replace(
    SMALL_SASHIMI,
    backbone=IsotropicConfig(d_model=64, n_layers=4, ssm=_SMALL_SSM),
    training=replace(_SMALL, lr=0.008, ssm_lr=0.004),
)
SMALL_WAVENET = replace(
    SMALL_SASHIMI,
    backbone=WaveNetConfig(d_residual=32, d_dilation=32, d_skip=512, d_end=256, d_model=128),
    training=replace(_SMALL, lr=0.002),
)
TINY_WAVENET = replace(
    SMALL_WAVENET,
    backbone=WaveNetConfig(d_residual=20, d_dilation=20, d_skip=256, d_end=128, d_model=64),
)
SMALL_SAMPLERNN = replace(
    SMALL_SASHIMI,
    backbone=SampleRNNConfig(d_hidden=192, d_embedding=64),
    training=replace(_SMALL, lr=0.002, batch_size=8, tbptt_length=512, clip_value=1.0),
)

# The same for spoken digits at 8 kHz, whose recordings are about as long as a segment: words, not pieces.
DIGITS_SASHIMI = replace(SMALL_SASHIMI, sample_rate=8_000)
DIGITS_ISOTROPIC = replace(SMALL_ISOTROPIC, sample_rate=8_000)
DIGITS_WAVENET = replace(SMALL_WAVENET, sample_rate=8_000)
DIGITS_SAMPLERNN = replace(SMALL_SAMPLERNN, sample_rate=8_000)

# For an hour of one CPU core; benchmarks/quality/recipe.py compares its settings with others in equal time.
HOUR_SASHIMI = Recipe(
    SaShiMiConfig(d_model=64, n_layers=2, norm="layer", ssm=SSMConfig(d_state=32)), MuLaw(), 16_000, 8_192,
    TrainingConfig(
        steps=9_000, batch_size=2, lr=0.008, ssm_lr=0.004, muon_lr=0.03, warmup=50, decay="cosine",
        valid_every=500,
    ),
)  # fmt: skip

# 16-bit sound (chapter 8): the paper's WaveRNN; a small one, for digits and one CPU core; and the small
# SaShiMi with WaveRNN's output layer.
WAVERNN_896 = Recipe(
    WaveRNNConfig(), CoarseFine(), 24_000, 960,
    TrainingConfig(
        steps=500_000, batch_size=64, lr=0.001, warmup=1_000, decay="cosine", clip_norm=1.0,
        checkpoint_every=1_000,
    ),
)  # fmt: skip
WAVERNN_224 = Recipe(
    WaveRNNConfig(224), CoarseFine(), 8_000, 960,
    replace(_SMALL, batch_size=64, lr=0.002, clip_norm=1.0),
)  # fmt: skip
SMALL_SASHIMI_16 = replace(SMALL_SASHIMI, quantizer=CoarseFine())
DIGITS_SASHIMI_16 = replace(DIGITS_SASHIMI, quantizer=CoarseFine())

# Diffusion (chapter 9): the paper's two networks in two sizes, eight GPUs' batches together, and a vocoder.
SC09_DIFFWAVE = DiffusionRecipe(
    DiffusionConfig(DiffWaveConfig()), 16_000, 16_000,
    TrainingConfig(
        steps=1_000_000, batch_size=32, lr=2e-4, ssm_lr=2e-4, valid_every=2_500, checkpoint_every=1_000,
    ),
)  # fmt: skip
SC09_DIFFWAVE_SMALL = replace(
    SC09_DIFFWAVE, config=DiffusionConfig(DiffWaveConfig(d_residual=128, n_layers=30, cycle=10))
)
SC09_DIFFUSION_SASHIMI = replace(SC09_DIFFWAVE, config=DiffusionConfig(PAPER_UNET))
SC09_DIFFUSION_SASHIMI_SMALL = replace(SC09_DIFFWAVE, config=DiffusionConfig(PAPER_UNET_SMALL))
LJSPEECH_DIFFUSION_SASHIMI = DiffusionRecipe(
    DiffusionConfig(
        SaShiMiUNetConfig(d_model=32, mel=LogMelConfig(22_050, n_mels=80, hop=256, window=1_024)),
        LinearSchedule(50, beta_end=0.05),
    ),
    22_050, 16_000, SC09_DIFFWAVE.training,
)  # fmt: skip

# Ours, spoken digits by class: two networks of about equal size, on half a second of audio, which is within
# their receptive fields, each with the best of four learning rates (benchmarks/quality/diffusion_rates.py).
# SaShiMi's state spaces are diagonal, which is faster on a CPU. Digits with a peak of 1 have a root mean
# square of about 0.2.
DIGITS_DIFFUSION_SASHIMI = DiffusionRecipe(
    DiffusionConfig(
        SaShiMiUNetConfig(
            d_model=20, n_layers=2, d_step=(64, 128, 128), n_classes=10,
            ssm=SSMConfig(d_state=32, form=Form.DIAGONAL, init="lin", tied=False),
        ),
        CosineSchedule(), "velocity", scale=0.2,
    ),
    8_000, 4_096,
    replace(_SMALL, batch_size=8, lr=0.008, ssm_lr=0.004, clip_norm=1.0),
)  # fmt: skip
DIGITS_DIFFWAVE = replace(
    DIGITS_DIFFUSION_SASHIMI,
    config=replace(
        DIGITS_DIFFUSION_SASHIMI.config,
        backbone=DiffWaveConfig(
            d_residual=32, d_skip=32, n_layers=22, cycle=11, d_step=(64, 128, 128), n_classes=10
        ),
    ),
    training=replace(DIGITS_DIFFUSION_SASHIMI.training, lr=0.004, ssm_lr=0.002),
)

RECIPES: dict[str, Recipe | DiffusionRecipe] = {
    "beethoven_sashimi_8": BEETHOVEN_SASHIMI_8,
    "beethoven_wavenet_1024": BEETHOVEN_WAVENET_1024,
    "beethoven_samplernn_3": BEETHOVEN_SAMPLERNN_3,
    "youtubemix_sashimi_8": YOUTUBEMIX_SASHIMI_8,
    "youtubemix_sashimi_6": YOUTUBEMIX_SASHIMI_6,
    "youtubemix_sashimi_4": YOUTUBEMIX_SASHIMI_4,
    "youtubemix_sashimi_2": YOUTUBEMIX_SASHIMI_2,
    "youtubemix_isotropic_8": YOUTUBEMIX_ISOTROPIC_8,
    "youtubemix_isotropic_4": YOUTUBEMIX_ISOTROPIC_4,
    "youtubemix_wavenet_1024": YOUTUBEMIX_WAVENET_1024,
    "youtubemix_wavenet_512": YOUTUBEMIX_WAVENET_512,
    "youtubemix_samplernn_3": YOUTUBEMIX_SAMPLERNN_3,
    "youtubemix_samplernn_2": YOUTUBEMIX_SAMPLERNN_2,
    "sc09_sashimi_8": SC09_SASHIMI_8,
    "sc09_wavenet_1024": SC09_WAVENET_1024,
    "sc09_samplernn_3": SC09_SAMPLERNN_3,
    "sc09_sashimi_unet_8": SC09_SASHIMI_UNET_8,
    "hour_sashimi": HOUR_SASHIMI,
    "small_sashimi": SMALL_SASHIMI,
    "small_isotropic": SMALL_ISOTROPIC,
    "small_wavenet": SMALL_WAVENET,
    "tiny_wavenet": TINY_WAVENET,
    "small_samplernn": SMALL_SAMPLERNN,
    "digits_sashimi": DIGITS_SASHIMI,
    "digits_isotropic": DIGITS_ISOTROPIC,
    "digits_wavenet": DIGITS_WAVENET,
    "digits_samplernn": DIGITS_SAMPLERNN,
    "wavernn_896": WAVERNN_896,
    "wavernn_224": WAVERNN_224,
    "small_sashimi_16": SMALL_SASHIMI_16,
    "digits_sashimi_16": DIGITS_SASHIMI_16,
    "sc09_diffwave": SC09_DIFFWAVE,
    "sc09_diffwave_small": SC09_DIFFWAVE_SMALL,
    "sc09_diffusion_sashimi": SC09_DIFFUSION_SASHIMI,
    "sc09_diffusion_sashimi_small": SC09_DIFFUSION_SASHIMI_SMALL,
    "ljspeech_diffusion_sashimi": LJSPEECH_DIFFUSION_SASHIMI,
    "digits_diffusion_sashimi": DIGITS_DIFFUSION_SASHIMI,
    "digits_diffwave": DIGITS_DIFFWAVE,
}
