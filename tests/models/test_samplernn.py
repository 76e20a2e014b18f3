"""SampleRNN: the published sizes, equal results in all modes, causality, a learned initial state."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sashimi_lib.audio.quantizers import Linear, MuLaw
from sashimi_lib.models import SampleRNN, SampleRNNConfig, SamplingConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.samplernn import AmplitudeEmbedding
from sashimi_lib.training.init import init_ordered_embeddings, ordered_embeddings
from tests.streaming.helpers import error, in_chunks

pytestmark = pytest.mark.usefixtures("shapes_unchecked")  # other tests check them
SHAPES = [((8, 2, 2), 1), ((16, 4), 2), ((3, 5, 2, 2), 1), ((4,), 2)]


def small(frame_sizes=(8, 2, 2), n_rnn=1):
    """A small model with noise on its weights, some of which start at zero."""
    model = SampleRNN(SampleRNNConfig(frame_sizes, n_rnn, d_hidden=6, d_embedding=3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def leaves(state):
    return [state] if isinstance(state, torch.Tensor) else [leaf for part in state for leaf in leaves(part)]


@pytest.mark.parametrize(
    ("config", "published"),
    [(SampleRNNConfig(), 35_034_624), (SampleRNNConfig((16, 4), n_rnn=2), 51_848_704)],
)
def test_the_paper_s_models_have_the_paper_s_parameters(config, published):
    model = AudioLM(MuLaw(), SampleRNN(config))
    assert sum(p.numel() for p in model.parameters()) == published
    assert all(p.requires_grad for p in model.parameters())


@given(shape=st.sampled_from(SHAPES), cuts=st.lists(st.integers(1, 70), min_size=1, max_size=6))
@settings(max_examples=40)
@torch.no_grad()
def test_chunks_of_any_length_equal_the_whole_sequence(shape, cuts):
    model = small(*shape).double()
    x = torch.randn(1, sum(cuts), 4, dtype=torch.float64)
    assert error(in_chunks(model, x, cuts)[0], model(x)[0]) < 1e-10


@torch.no_grad()
def test_the_state_after_a_long_chunk_does_not_keep_the_chunk_in_memory():
    _, state = small()(torch.randn(1, 5000, 4), small().initial_state(1))
    assert all(leaf.untyped_storage().nbytes() == leaf.nbytes for leaf in leaves(state))


@torch.no_grad()
def test_a_tier_depends_on_a_frame_as_soon_as_it_ends_and_no_sooner():
    model = small().double()
    x = torch.randn(1, 96, 4, dtype=torch.float64)
    louder = x.clone()
    louder[:, 34, 0] += 1  # amplitude of time 34: frames of 8, 16, 32 that hold it end at 40, 48, 64
    changed = (model(x)[0] - model(louder)[0]).abs().amax(dim=(0, 2)) > 1e-12
    assert changed.nonzero().min() == 40
    for tier in model.tiers[:2]:
        tier.expand.parametrizations.weight.original0.zero_()
    changed = (model(x)[0] - model(louder)[0]).abs().amax(dim=(0, 2)) > 1e-12
    assert changed.nonzero().min() == 64


@torch.no_grad()
def test_a_code_embedding_is_input_for_the_smallest_frame():
    model = small()
    x = torch.randn(1, 64, 4)
    other = x.clone()
    other[:, 20, 1:] += 1
    changed = (model(x)[0] != model(other)[0]).any(dim=2)[0].nonzero()[:, 0]
    assert changed.tolist() == list(range(20, 28))


def test_the_initial_state_gets_a_gradient_unless_the_state_is_detached():
    model = small(n_rnn=2)
    first, state = model(torch.randn(3, 40, 4), model.initial_state(3))
    first.square().sum().backward()
    for tier in model.tiers:
        assert tier.h0.grad.abs().amin() > 0
        tier.h0.grad = None
    amplitudes, vectors, phase, tiers = state
    detached = tuple(tuple(leaf.detach() for leaf in tier) for tier in tiers)
    model(torch.randn(3, 40, 4), (amplitudes, vectors, phase, detached))[0].square().sum().backward()
    assert all(tier.h0.grad is None for tier in model.tiers)


def test_a_new_model_is_initialized_as_published():
    config = SampleRNNConfig((4, 2), n_rnn=2, d_hidden=32, d_embedding=8)
    model = SampleRNN(config)
    tier = model.tiers[1]
    candidate = tier.rnn.weight_hh_l1[64:]
    assert torch.allclose(candidate @ candidate.T, torch.eye(32), atol=1e-5)
    for weight, bound in [
        (tier.expand.weight, math.sqrt(6 / 8)),
        (tier.upsample.weight, math.sqrt(6 / 32)),
        (tier.rnn.weight_ih_l1, math.sqrt(3 / 32)),
        (tier.rnn.weight_hh_l0[:64], math.sqrt(3 / 32)),
        (model.mlp.input.weight, math.sqrt(6 / (8 * 4))),
        (model.mlp.hidden.weight, math.sqrt(6 / 32)),
    ]:
        assert 0.95 * bound < weight.abs().max() < bound * (1 + 1e-5)
    assert all(
        not p.any() for name, p in model.named_parameters() if name.split(".")[-1].startswith(("bias", "h0"))
    )


@pytest.mark.parametrize("quantizer", [MuLaw(), Linear(64)])
def test_the_input_is_twice_the_amplitude_and_an_embedding_of_each_code(quantizer):
    embedding = AmplitudeEmbedding(quantizer, 5)
    codes = torch.randint(quantizer.levels, (2, 30))
    x = embedding(codes)
    assert torch.equal(x[..., 0], 2 * quantizer.decode(codes))
    assert torch.equal(x[..., 1:], embedding.embedding.weight[codes])


def test_its_embeddings_can_be_ordered():
    model = AudioLM(MuLaw(), SampleRNN(SampleRNNConfig(d_hidden=8, d_embedding=4)))
    init_ordered_embeddings(model)
    assert torch.equal(model.embedding.embedding.weight, ordered_embeddings(MuLaw(), 4))


def test_at_a_low_temperature_it_generates_the_most_likely_codes():
    model = AudioLM(MuLaw(), SampleRNN(SampleRNNConfig((4, 2), d_hidden=8, d_embedding=4)))
    prompt = torch.randint(256, (1, 13))
    generated = model.generate(40, prompt=prompt, sampling=SamplingConfig(temperature=1e-6))
    inputs = torch.cat([torch.tensor([[128]]), prompt, generated], dim=1)
    logits, _ = model(inputs[:, :-1])
    assert torch.equal(logits.argmax(-1)[:, 13:], generated)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"frame_sizes": ()}, "frame_sizes"),
        ({"frame_sizes": (8, 1)}, "frame_sizes"),
        ({"n_rnn": 0}, "n_rnn"),
        ({"d_hidden": 0}, "d_hidden"),
        ({"d_embedding": 0}, "d_embedding"),
    ],
)
def test_impossible_shapes_are_refused_by_name(settings, name):
    with pytest.raises(ValueError, match=name):
        SampleRNNConfig(**settings)
