"""The head start: neighbouring codes begin alike, distant ones apart, and a short run gets further."""

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


def test_neighbours_begin_alike_and_distant_codes_apart():
    distance = torch.cdist(*2 * [ordered_embeddings(MuLaw(), 32)])
    assert distance.diagonal(1).mean() < distance.diagonal(4).mean() < distance.diagonal(128).mean()
    assert distance.diagonal(1).max() < distance.mean() / 2


def test_neighbours_begin_alike_among_65536_values_too_and_logistics_stay_as_they_are():
    backbone = SaShiMi(SaShiMiConfig(d_model=8, n_layers=1))
    joint, bells = JointSoftmax(8), Logistics(8)
    before = bells.linear.weight.clone()
    for head in (joint, bells):
        init_ordered_embeddings(AudioLM(CoarseFine(), backbone, head))
    near, far = (joint.linear.weight[30_000 + gap] - joint.linear.weight[30_000] for gap in (1, 10_000))
    assert 0 < near.norm() < far.norm() / 100
    assert torch.equal(bells.linear.weight, before)


def test_too_few_channels_are_refused():
    with pytest.raises(ValueError, match="d_model must be at least 2, got 1"):
        ordered_embeddings(MuLaw(), 1)


@pytest.mark.slow
def test_a_short_run_gets_further_from_ordered_codes():
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
