"""Ordered initialization: neighboring codes have similar embeddings, and short runs reach a lower loss."""

import pytest
import torch

from sashimi_lib.audio.quantizers import CoarseFine, Linear, MuLaw
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.heads import JointSoftmax, Logistics
from sashimi_lib.training.init import init_ordered_embeddings, ordered_embeddings
from sashimi_lib.training.trainer import TrainingConfig, train


@pytest.mark.parametrize("quantizer", [MuLaw(), Linear(), MuLaw(64)])
@pytest.mark.parametrize("d_model", [2, 7, 32])
def test_every_code_has_its_own_finite_vector(quantizer, d_model):
    vectors = ordered_embeddings(quantizer, d_model)
    assert vectors.shape == (quantizer.levels, d_model)
    assert vectors.isfinite().all()
    assert len(vectors.unique(dim=0)) == quantizer.levels


def test_neighboring_codes_are_near_and_distant_codes_far():
    distance = torch.cdist(*2 * [ordered_embeddings(MuLaw(), 32)])
    assert distance.diagonal(1).mean() < distance.diagonal(4).mean() < distance.diagonal(128).mean()
    assert distance.diagonal(1).max() < distance.mean() / 2


def test_neighboring_16_bit_values_are_near_and_logistics_are_unchanged():
    backbone = SaShiMi(SaShiMiConfig(d_model=8, n_layers=1))
    joint, logistics = JointSoftmax(8), Logistics(8)
    before = logistics.linear.weight.clone()
    for head in (joint, logistics):
        init_ordered_embeddings(AudioLM(CoarseFine(), backbone, head))
    near, far = (joint.linear.weight[30_000 + gap] - joint.linear.weight[30_000] for gap in (1, 10_000))
    assert 0 < near.norm() < far.norm() / 100
    assert torch.equal(logistics.linear.weight, before)


def test_fewer_than_two_channels_are_refused():
    with pytest.raises(ValueError, match="d_model must be at least 2, got 1"):
        ordered_embeddings(MuLaw(), 1)


@pytest.mark.slow
def test_a_short_run_reaches_a_lower_loss():
    t = torch.arange(4096) / 16_000
    codes = MuLaw().encode(0.1 * torch.sin(2 * torch.pi * (300 + 800 * t) * t)).view(16, 256)
    bits = {}
    for ordered in (False, True):
        torch.manual_seed(0)
        model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
        if ordered:
            init_ordered_embeddings(model)
        bits[ordered] = train(model, codes, TrainingConfig(steps=25), progress=False).loss[-1]
    assert bits[True] < bits[False] - 0.3
