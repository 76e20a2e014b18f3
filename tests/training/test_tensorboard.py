"""TensorBoard files have metrics of every step and a clip of each validation."""

import pytest
import torch

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training.tensorboard import TensorBoardLogger
from sashimi_lib.training.trainer import TrainingConfig, train

CODES = torch.full((4, 32), 120)


def new_model():
    torch.manual_seed(1)
    return AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)))


def test_metrics_and_clips_are_written_and_training_is_unchanged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainingConfig(steps=4, batch_size=2, valid_every=2, decay="cosine")
    board = TensorBoardLogger(tmp_path, sample_rate=8_000, seconds=0.01)
    history = train(new_model(), CODES, config, valid=CODES, logger=board, progress=False)
    assert history == train(new_model(), CODES, config, valid=CODES, progress=False)

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    read = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert [event.value for event in read["loss"]] == pytest.approx(history.loss)
    assert [(e.step, e.value) for e in read["valid_loss"]] == [
        (step, pytest.approx(bits)) for step, bits in history.valid
    ]
    assert [e.value for e in read["learning_rate"]] == pytest.approx(
        [0.004 * config.rate(n) for n in range(4)]
    )
    assert min(e.value for e in read["samples_per_second"]) > 0
    clips = events.Audio("sample")
    assert [clip.step for clip in clips] == [2, 4]
    assert all(clip.sample_rate == 8_000 and clip.length_frames == 80 for clip in clips)


def test_without_tensorboard_the_error_names_the_extra(tmp_path, without_package):
    without_package("torch.utils.tensorboard")
    with pytest.raises(ImportError, match=r'pip install "sashimi_lib\[train\]"'):
        TensorBoardLogger(tmp_path)
