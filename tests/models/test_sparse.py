"""A sparse WaveRNN has the outputs and samples of the dense one, and its coarse half does not depend on
c_t."""

import pytest
import torch
from torch import nn

from sashimi_lib.models import WaveRNN, WaveRNNConfig
from sashimi_lib.models.sparse import LAYERS, SparseLinear, sparse
from sashimi_lib.training.pruning import Pruner, PruningConfig


@pytest.fixture(params=[(1, 1), (16, 1), (4, 4)])
def pruned(request):
    """A model with 90 % of its weights pruned; the others are large, so that its predictions are not
    uniform."""
    torch.manual_seed(0)
    model = WaveRNN(WaveRNNConfig(d_hidden=96, d_conditioning=2))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)
    pruner = Pruner(model, PruningConfig(block=request.param))
    pruner.prune(0.9)
    pruner.bake_masks()
    return model


def logits_of_a_step(model, codes, state, coarse):
    """Return both logits of a step in which the coarse code is ``coarse``, and the next state."""
    seen = []

    def sampler(logits):
        seen.append(logits)
        return torch.full((len(logits),), coarse)

    conditioning = torch.full((len(codes), 2), 0.3)
    with torch.no_grad():
        _, state = model.sample_next(codes, state, sampler, conditioning)
    return *seen, state


@pytest.mark.parametrize("batch", [1, 3])
def test_a_step_has_the_same_logits_and_state(pruned, batch):
    codes, state = torch.randint(256, (batch, 2)), torch.randn(batch, 96).tanh()
    dense = logits_of_a_step(pruned, codes, state, 77)
    for found, expected in zip(
        logits_of_a_step(sparse(pruned, min_size=0), codes, state, 77), dense, strict=True
    ):
        assert expected.std() > 0.1
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_seed_gives_the_same_codes(batch):
    torch.manual_seed(0)
    model = WaveRNN(WaveRNNConfig(d_hidden=96))
    pruner = Pruner(model, PruningConfig())
    pruner.prune(0.9)
    prompt = torch.randint(256, (batch, 30, 2))
    samples = sparse(model, min_size=0).generate(100, prompt=prompt, seed=1)  # with a pruner attached, too
    assert torch.equal(samples, model.generate(100, prompt=prompt, seed=1))
    assert len(samples.unique()) > 50


def test_the_parallel_pass_is_the_same(pruned):
    codes, conditioning = torch.randint(256, (2, 20, 2)), torch.randn(2, 20, 2)
    cache = pruned.initial_cache(2)
    with torch.no_grad():
        found, _ = sparse(pruned, min_size=0).log_likelihood_from(codes, cache, conditioning)
        expected, _ = pruned.log_likelihood_from(codes, cache, conditioning)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_coarse_half_of_a_step_does_not_depend_on_the_coarse_code(pruned):
    model = sparse(pruned, min_size=0)
    codes, state = torch.randint(256, (1, 2)), torch.randn(1, 96).tanh()
    (coarse, fine, last), (coarse_too, fine_too, last_too) = (
        logits_of_a_step(model, codes, state, c) for c in (3, 250)
    )
    assert torch.equal(coarse, coarse_too)
    assert torch.equal(last[:, :48], last_too[:, :48])
    assert not torch.allclose(fine, fine_too, atol=1e-3)


@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_of_coarse_logits_by_the_coarse_code_are_exactly_zero(pruned, monkeypatch, batch):
    model, inputs = sparse(pruned, min_size=0), []

    def record(codes, conditioning):
        x = torch.cat([codes / 127.5 - 1, conditioning], dim=-1).requires_grad_()
        inputs.append(x)
        return x

    monkeypatch.setattr(model, "_inputs", record)
    codes = torch.randint(256, (batch, 1, 2))
    h, _ = model(codes, codes[..., 0], torch.zeros(batch, 96), torch.zeros(batch, 1, 2))
    (of_coarse,) = torch.autograd.grad(model.coarse_logits(h).square().sum(), inputs, retain_graph=True)
    (of_fine,) = torch.autograd.grad(model.fine_logits(h).square().sum(), inputs)
    assert (of_coarse[..., 2] == 0).all()
    assert (of_coarse[..., :2] != 0).all()
    assert (of_fine[..., 2] != 0).all()


def test_only_nonzero_weights_are_stored(pruned):
    model = sparse(pruned, min_size=0)
    for name in LAYERS:
        layer, dense = getattr(model, name), getattr(pruned, name).weight
        assert layer.csr.values().numel() == dense.count_nonzero() < 0.11 * dense.numel()
        assert torch.equal(layer.weight, dense)


def test_small_matrices_stay_dense():
    model = sparse(WaveRNN(WaveRNNConfig(d_hidden=224)))
    assert [name for name in LAYERS if isinstance(getattr(model, name), SparseLinear)] == ["R"]


def test_the_dense_model_is_not_modified(pruned):
    before = {name: x.clone() for name, x in pruned.state_dict().items()}
    logits_of_a_step(sparse(pruned, min_size=0), torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 96), 77)
    assert isinstance(pruned.R, nn.Linear)
    assert all(torch.equal(x, before[name]) for name, x in pruned.state_dict().items())


@pytest.mark.parametrize("shape", [(5,), (1, 5), (4, 5), (1, 1, 5), (2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_takes_any_batch_shape(shape, bias):
    linear, x = nn.Linear(5, 7, bias=bias), torch.randn(shape)
    assert torch.allclose(SparseLinear(linear)(x), linear(x), atol=1e-6)


def test_a_layer_without_mkl_is_the_same(monkeypatch):
    linear, x = nn.Linear(5, 7), torch.randn(1, 5)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert torch.allclose(SparseLinear(linear)(x), linear(x), atol=1e-6)
