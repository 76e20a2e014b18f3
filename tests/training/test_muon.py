"""Muon: orthogonalized updates of hidden matrices, AdamW for everything else."""

import pytest
import torch
from torch import nn

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SampleRNNConfig, SaShiMiConfig, WaveNetConfig, WaveRNN, WaveRNNConfig
from sashimi_lib.models.audio_lm import new_model
from sashimi_lib.ssm.s4 import SSMConfig
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.muon import MOMENTUM, MuonAdamW, orthogonalize
from sashimi_lib.training.optimizer import new_optimizer, parameter_groups
from sashimi_lib.training.trainer import train

CONFIG = TrainingConfig(steps=12, batch_size=4, lr=0.01, muon_lr=0.02, weight_decay=0.1)


def new_sashimi():
    torch.manual_seed(0)
    return new_model(SaShiMiConfig(d_model=8, n_layers=1, ssm=SSMConfig(d_state=4)), MuLaw())


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (2, 6, 4)])
def test_an_orthogonalized_matrix_keeps_its_singular_vectors(shape):
    G = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    inner = U.mT @ orthogonalize(G) @ Vh.mT
    diagonal = inner.diagonal(dim1=-2, dim2=-1)
    assert (inner - torch.diag_embed(diagonal)).abs().max() < 1e-9
    large = 0.02 * S.square().sum(-1, keepdim=True).sqrt() < S  # the iteration raises small ones less
    assert large.any()
    assert (diagonal[large] > 0.6).all()
    assert (diagonal < 1.25).all()


def test_a_zero_gradient_moves_nothing_but_decay():
    p = nn.Parameter(torch.ones(2, 3))
    optimizer = MuonAdamW([{"params": [p], "muon": True, "lr": 0.5, "weight_decay": 0.2}])
    p.grad = torch.zeros(2, 3)
    optimizer.step()
    assert torch.allclose(p, torch.full((2, 3), 0.9))


def test_a_step_is_that_of_the_formula():
    G = torch.randn(2, 6, 3)  # of two steps
    p = nn.Parameter(torch.randn(6, 3))
    expected, M = p.detach().clone(), torch.zeros(6, 3)
    optimizer = MuonAdamW([{"params": [p], "muon": True, "lr": 0.1, "weight_decay": 0.0}])
    for gradient in G:
        M = MOMENTUM * M + (1 - MOMENTUM) * gradient
        p.grad = gradient.clone()
        optimizer.step()
        expected -= 0.1 * 2**0.5 * orthogonalize((1 - MOMENTUM) * gradient + MOMENTUM * M)
    assert torch.allclose(p, expected, atol=1e-5)


def test_groups_without_muon_step_as_under_adamw():
    weights = [nn.Parameter(torch.ones(3, 3)) for _ in range(2)]
    for p in weights:
        p.grad = torch.arange(9.0).view(3, 3)
    MuonAdamW([{"params": [weights[0]]}], lr=0.1).step()
    torch.optim.AdamW([weights[1]], lr=0.1).step()
    assert torch.equal(*weights)


def test_every_parameter_is_in_one_group_and_matrices_train_with_muon():
    model = new_sashimi()
    groups = parameter_groups(model, CONFIG)
    assert [group["full_lr"] for group in groups] == [0.01, 0.001, 0.02]
    assert [group.get("muon", False) for group in groups] == [False, False, True]
    grouped = [p for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == sum(p.requires_grad for p in model.parameters())
    matrices = set(groups[2]["params"])
    assert matrices.isdisjoint(model.embedding.parameters())
    assert matrices.isdisjoint(model.head.parameters())
    assert all(p.ndim == 2 for p in matrices)


@pytest.mark.parametrize(
    "backbone", [WaveNetConfig(8, 8, 8, 8, 8, 2, 1), SampleRNNConfig(d_hidden=8, d_embedding=8)]
)
def test_baselines_have_hidden_matrices_too(backbone):
    model = new_model(backbone, MuLaw())
    assert isinstance(new_optimizer(model, CONFIG), MuonAdamW)


def test_a_model_without_a_backbone_is_refused():
    with pytest.raises(
        ValueError, match="muon_lr must be None for a model without a backbone, got a WaveRNN"
    ):
        new_optimizer(WaveRNN(WaveRNNConfig(8)), CONFIG)


def test_a_run_with_muon_learns_and_resumes_bit_for_bit(tmp_path):
    data = torch.randint(100, 104, (12, 64), generator=torch.Generator().manual_seed(0))
    whole = train(new_sashimi(), data, CONFIG, progress=False)
    assert whole.loss[-1] < whole.loss[0] - 2
    path = tmp_path / "run.pt"
    train(new_sashimi(), data, CONFIG, path, stop=iter([False, False, True]).__next__, progress=False)
    assert train(new_sashimi(), data, CONFIG, path, progress=False) == whole
