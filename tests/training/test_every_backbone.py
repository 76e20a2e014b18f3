"""Every backbone trains with truncated back-propagation, in half precision, and resumes."""

import dataclasses

import pytest
import torch

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.trainer import train
from tests.training.backbones import BACKBONES

CONFIG = TrainingConfig(steps=9, batch_size=2, tbptt_length=21, clip_value=1.0, ema=0.9, checkpoint_every=2)


@pytest.fixture(params=BACKBONES)
def new_model(request):
    def make():
        torch.manual_seed(1)
        return AudioLM(MuLaw(), BACKBONES[request.param]())

    return make


@pytest.fixture
def sequences():
    return [torch.randint(100, 150, (length,)) for length in (50, 33, 64, 17)]


@pytest.mark.slow
def test_a_resumed_run_with_tbptt_equals_an_uninterrupted_one(new_model, sequences, tmp_path):
    def stop(step, bits):
        if step == 6:
            raise KeyboardInterrupt

    whole, resumed = new_model(), new_model()
    history = train(whole, sequences, CONFIG, progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(new_model(), sequences, CONFIG, tmp_path / "run.pt", on_step=stop, progress=False)
    assert train(resumed, sequences, CONFIG, tmp_path / "run.pt", progress=False) == history
    weights = resumed.state_dict()
    assert all(torch.equal(x, weights[name]) for name, x in whole.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("tbptt_length", [None, 21])
def test_half_precision_trains_nearly_the_same(new_model, sequences, tbptt_length):
    bits = {}
    for precision in ("float32", "bfloat16"):
        config = dataclasses.replace(CONFIG, tbptt_length=tbptt_length, precision=precision)
        bits[precision] = torch.tensor(train(new_model(), sequences, config, progress=False).loss)
    gap = (bits["float32"] - bits["bfloat16"]).abs().max()
    assert 0 < gap < 0.1
