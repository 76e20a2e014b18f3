"""Every numeric setting with NaN, infinity, -1 and 0: accepted if it is meaningful, else refused by name."""

import dataclasses
import math

import pytest

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.diffusion.model import DiffusionConfig
from sashimi_lib.diffusion.schedules import CosineSchedule, LinearSchedule, LogSNRSchedule
from sashimi_lib.models import (
    DiffWaveConfig,
    IsotropicConfig,
    SampleRNNConfig,
    SaShiMiConfig,
    WaveNetConfig,
    WaveRNNConfig,
)
from sashimi_lib.models.sashimi_unet import SaShiMiUNetConfig
from sashimi_lib.models.subscale import SubscaleConfig
from sashimi_lib.ssm.s4 import SSMConfig
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.execution import ExecutionConfig
from sashimi_lib.training.pruning import PruningConfig
from tests.awkward import without_shape_checks

SETTINGS = (
    TrainingConfig(clip_norm=1.0, clip_value=1.0, tbptt_length=8, early_stopping_patience=3),
    ExecutionConfig(), PruningConfig(), SSMConfig(),
    SaShiMiConfig(), IsotropicConfig(), WaveNetConfig(), SampleRNNConfig(), WaveRNNConfig(), SubscaleConfig(),
    SaShiMiUNetConfig(), DiffWaveConfig(), DiffusionConfig(DiffWaveConfig()), LogMelConfig(),
    LinearSchedule(), CosineSchedule(), LogSNRSchedule(),
)  # fmt: skip
# Values out of the common range that are meaningful.
ACCEPTED = {
    ("TrainingConfig", "weight_decay", 0), ("TrainingConfig", "warmup", 0),
    ("TrainingConfig", "plateau_patience", 0), ("TrainingConfig", "ema", 0), ("TrainingConfig", "seed", 0),
    ("PruningConfig", "sparsity", 0), ("PruningConfig", "start", 0), ("WaveRNNConfig", "d_conditioning", 0),
    ("SubscaleConfig", "lookahead", 0), ("SaShiMiUNetConfig", "n_classes", 0),
    ("DiffWaveConfig", "n_classes", 0), ("DiffusionConfig", "label_dropout", 0),
    ("CosineSchedule", "offset", 0), ("LogSNRSchedule", "highest", 0),
    ("LogSNRSchedule", "highest", -1), ("LogSNRSchedule", "lowest", 0), ("LogSNRSchedule", "lowest", -1),
}  # fmt: skip


def cases():
    for settings in SETTINGS:
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            number = value[0] if isinstance(value, tuple) and value else value
            if isinstance(number, int | float) and not isinstance(number, bool):
                bad = [-1, 0] if type(settings) is ExecutionConfig else [math.nan, math.inf, -1, 0]
                for other in bad:
                    yield pytest.param(
                        settings, field.name, other, id=f"{type(settings).__name__}-{field.name}-{other}"
                    )


@pytest.mark.parametrize(("settings", "name", "value"), list(cases()))
def test_a_number_out_of_range_is_refused_by_name(settings, name, value):
    before = getattr(settings, name)
    number = float(value) if isinstance(before, float) else value
    given = (number, *before[1:]) if isinstance(before, tuple) else number
    with without_shape_checks():
        if (type(settings).__name__, name, value) in ACCEPTED:
            assert getattr(dataclasses.replace(settings, **{name: given}), name) == given
        else:
            with pytest.raises(ValueError, match=rf"\b{name}\b"):
                dataclasses.replace(settings, **{name: given})


def test_a_seed_beyond_32_bits_is_refused():
    with pytest.raises(ValueError, match=r"^seed must be below 2\^32, got 4294967296"):
        TrainingConfig(seed=2**32)
