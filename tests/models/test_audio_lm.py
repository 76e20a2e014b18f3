"""AudioLM: probabilities sum to one, samples follow the likelihood, bad input raises a clear error."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sashimi_lib.audio.quantizers import Linear, MuLaw
from sashimi_lib.models import IsotropicConfig, IsotropicS4, SamplingConfig, SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM, new_model
from sashimi_lib.models.sampling import sample_token
from sashimi_lib.ssm.s4 import S4


@pytest.fixture(params=["sashimi", "isotropic"])
def model(request):
    backbone = SaShiMi(SaShiMiConfig(d_model=4, n_layers=1))
    return AudioLM(
        MuLaw(),
        backbone if request.param == "sashimi" else IsotropicS4(IsotropicConfig(d_model=4, n_layers=1)),
    )


@torch.no_grad()
def test_an_untrained_model_is_near_chance(model):
    codes = torch.randint(0, 256, (2, 100))
    bits = -model.log_likelihood(codes)
    assert bits.shape == (2, 100)
    assert abs(float(bits.mean()) - 8) < 1


@torch.no_grad()
def test_probabilities_of_all_short_clips_sum_to_one():
    model = AudioLM(Linear(4), SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)))
    clips = torch.cartesian_prod(*[torch.arange(4)] * 4)
    total = (model.log_likelihood(clips).sum(1) * math.log(2)).exp().sum()
    assert abs(float(total) - 1) < 1e-5


@torch.no_grad()
def test_stepping_gives_the_logits_of_the_parallel_pass(model):
    codes = torch.randint(0, 256, (2, 50))
    logits, _ = model(codes)
    state = model.initial_state(2)
    for t in range(50):
        stepped, state = model.step(codes[:, t], state)
        assert torch.allclose(stepped, logits[:, t], atol=1e-4)


@torch.no_grad()
def test_generate_samples_from_the_distribution_of_the_likelihood():
    model = AudioLM(Linear(4), SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)))
    model.head.bias.copy_(torch.tensor([2.0, 0.0, -1.0, 1.0]))
    samples = model.generate(2, batch_size=20_000, seed=1)
    clips = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    expected = 2 ** model.log_likelihood(clips).sum(1)
    observed = torch.bincount(samples[:, 0] * 4 + samples[:, 1], minlength=16) / len(samples)
    assert (observed - expected).abs().max() < 5 * math.sqrt(0.25 / len(samples))


def test_the_same_seed_gives_the_same_codes_and_another_does_not(model):
    assert torch.equal(model.generate(30, 2, seed=7), model.generate(30, 2, seed=7))
    assert not torch.equal(model.generate(30, 2, seed=7), model.generate(30, 2, seed=8))


def test_a_prompt_in_two_calls_is_one_prompt(model):
    prompt = torch.randint(0, 256, (2, 37))
    both = model.generate(20, prompt=prompt, seed=3)
    generator = torch.Generator().manual_seed(3)
    first = model.generate(5, prompt=prompt, seed=generator)
    second = model.generate(15, prompt=torch.cat([prompt, first], 1), seed=generator)
    assert torch.equal(torch.cat([first, second], 1), both)


def test_a_prompt_changes_what_follows(model):
    quiet, loud = (model.generate(20, prompt=torch.full((1, 16), code), seed=0) for code in (128, 255))
    assert not torch.equal(quiet, loud)


@given(
    logits=st.lists(st.floats(-20, 20), min_size=2, max_size=8),
    temperature=st.floats(0.05, 5),
    top_p=st.floats(0.01, 1),
)
@settings(max_examples=50)
def test_samples_stay_in_the_nucleus(logits, temperature, top_p):
    logits = torch.tensor([logits])
    probability, order = (logits / temperature).softmax(-1)[0].sort(descending=True, stable=True)
    threshold = probability[int((probability.cumsum(0) < top_p - 1e-6).sum().clamp(max=len(order) - 1))]
    samples = sample_token(logits.expand(50, -1), SamplingConfig(temperature, top_p))
    assert ((logits[0, samples] / temperature).exp() >= 0).all()
    assert ((logits / temperature).softmax(-1)[0, samples] >= threshold - 1e-6).all()


def test_a_low_temperature_gives_the_most_likely_code():
    logits = torch.randn(100, 16)
    assert torch.equal(sample_token(logits, SamplingConfig(temperature=1e-3)), logits.argmax(-1))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"length": 0}, "length"),
        ({"prompt": torch.tensor([[256]])}, "prompt"),
        ({"prompt": torch.tensor([[-1]])}, "prompt"),
    ],
)
def test_bad_requests_are_refused_by_name(model, arguments, name):
    with pytest.raises(ValueError, match=name):
        model.generate(**{"length": 3} | arguments)


@pytest.mark.parametrize("codes", [torch.empty(1, 0, dtype=torch.long), torch.tensor([[0, 256]])])
def test_codes_out_of_range_are_refused(model, codes):
    with pytest.raises(ValueError, match="codes"):
        model.log_likelihood(codes)


def test_non_finite_logits_are_reported():
    with pytest.raises(ValueError, match="finite"):
        sample_token(torch.tensor([[float("nan"), 0.0]]))


@pytest.mark.parametrize("config", [SaShiMiConfig(4, 1, unet=True, bidirectional=True)])
def test_a_noncausal_backbone_is_refused(config):
    with pytest.raises(ValueError, match=r"backbone must be causal.*got a bidirectional SaShiMi.*tiers"):
        new_model(config, MuLaw())


@pytest.mark.parametrize("direction", ["bidirectional", "concat"])
def test_one_noncausal_layer_is_refused(direction):
    backbone = IsotropicS4(IsotropicConfig(d_model=4, n_layers=2))
    backbone.blocks.blocks[2].layer = S4(4, direction=direction)
    with pytest.raises(ValueError, match=r"backbone must be causal.*blocks\.blocks\.2\.layer is not causal"):
        AudioLM(MuLaw(), backbone)
