"""Heads: each is a distribution, and samples follow its likelihood."""

import math
from functools import partial

import pytest
import torch

from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.models import SampleRNN, SampleRNNConfig, SaShiMi, SaShiMiConfig, WaveNet, WaveNetConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.heads import DualSoftmax, JointSoftmax, Logistics, Softmax
from sashimi_lib.training.init import init_ordered_embeddings
from sashimi_lib.training.trainer import TrainingConfig, train

ALL_PAIRS = torch.cartesian_prod(torch.arange(256), torch.arange(256))
HEADS = [
    (lambda: DualSoftmax(8, 16), 16),
    (lambda: JointSoftmax(8, 16), 16),
    *((partial(Logistics, 8, levels), levels) for levels in (2, 6, 16, 256)),
]
BACKBONES = [
    lambda: SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)),
    lambda: WaveNet(WaveNetConfig(1, 3, 4, 4, 4, 4, 4)),
    lambda: SampleRNN(SampleRNNConfig((2, 2), d_hidden=8, d_embedding=4)),
]


def distribution(head, y, levels):
    """The probability of every pair of codes: coarse along rows, fine along columns."""
    pairs = torch.cartesian_prod(torch.arange(levels), torch.arange(levels))
    bits = head.log_probability(y.expand(1, len(pairs), 8), pairs[None])[0]
    return (bits.double() * math.log(2)).exp().view(levels, levels)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "levels"), HEADS)
def test_the_probabilities_of_all_values_sum_to_one(kind, levels):
    total = distribution(kind().double(), 3 * torch.randn(1, 1, 8).double(), levels).sum()
    assert abs(float(total) - 1) < 1e-9


@torch.no_grad()
def test_logistics_are_the_difference_of_two_values_of_the_logistic_function():
    head, y = Logistics(8, n=3).double(), torch.randn(1, 1, 8).double()
    weight, mean, log_scale = head.linear(y)[0, 0].chunk(3)
    s = (ALL_PAIRS[:, 0] * 256 + ALL_PAIRS[:, 1]).double()[:, None] / 32_768 - 1
    upper, lower = ((s + d - mean) / log_scale.exp() for d in (0.5 / 32_768, -0.5 / 32_768))
    upper[-1], lower[0] = torch.inf, -torch.inf
    expected = (weight.softmax(-1) * (upper.sigmoid() - lower.sigmoid())).sum(-1)
    given = 2 ** head.log_probability(y.expand(1, len(ALL_PAIRS), 8), ALL_PAIRS[None])[0]
    assert torch.allclose(given, expected, rtol=1e-7, atol=1e-15)


def test_fine_logits_depend_on_the_coarse_code():
    head = DualSoftmax(8)
    y = torch.randn(1, 1, 8)
    a, b = head.fine(y, torch.tensor([[3]])), head.fine(y, torch.tensor([[4]]))
    assert not torch.equal(a, b)
    one, other = (head.log_probability(y, torch.tensor([[[3, f]]])) for f in (0, 255))
    assert not torch.equal(one, other)


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_models_16_bits_in_parallel_and_by_steps(backbone):
    model = AudioLM(CoarseFine(), backbone()).double()
    codes = torch.randint(0, 256, (2, 30, 2))
    whole = model.log_likelihood(codes)
    (before, state), stepped = model.initial_cache(2), []
    for t in range(30):
        y, state = model.backbone.step(model.embedding(before), state)
        before = codes[:, t]
        stepped.append(model.head.log_probability(y[:, None], before[:, None]))
    assert torch.allclose(torch.cat(stepped, 1), whole, atol=1e-9)
    first, cache = model.log_likelihood_from(codes[:, :13], model.initial_cache(2))
    second, _ = model.log_likelihood_from(codes[:, 13:], cache)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-9)


@torch.no_grad()
def test_probabilities_of_two_small_samples_sum_to_one_and_are_the_frequencies():
    model = AudioLM(CoarseFine(2), SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)))
    pairs = torch.cartesian_prod(*[torch.arange(2)] * 4).view(16, 2, 2)
    expected = 2 ** model.log_likelihood(pairs).sum(1)
    assert abs(float(expected.sum()) - 1) < 1e-5
    samples = model.generate(2, batch_size=20_000, seed=1).flatten(1) @ torch.tensor([8, 4, 2, 1])
    observed = torch.bincount(samples, minlength=16) / len(samples)
    assert (observed - expected).abs().max() < 5 * math.sqrt(0.25 / len(samples))


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [False, True])
def test_sixteen_bits_are_learned(ordered):
    model = AudioLM(CoarseFine(), SaShiMi(SaShiMiConfig(d_model=16, n_layers=1)))
    if ordered:
        init_ordered_embeddings(model)
    tone = CoarseFine().encode(0.5 * torch.sin(0.2 * torch.arange(128.0)))
    clips = [tone, tone[:100]]  # of two lengths: padding has no loss
    history = train(model, clips, TrainingConfig(steps=60, batch_size=2), valid=clips, progress=False)
    assert history.loss[-1] < history.loss[0] - 4
    assert history.valid[-1][1] < 13


def test_codes_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"codes must have shape \(\.\.\., L, 2\)"):
        AudioLM(CoarseFine(), BACKBONES[0]()).log_likelihood(torch.zeros(2, 50, dtype=torch.long))
    with pytest.raises(ValueError, match="prompt"):
        AudioLM(CoarseFine(), BACKBONES[0]()).generate(3, prompt=torch.zeros(1, 5, dtype=torch.long))


def test_a_given_head_replaces_the_default():
    model = AudioLM(CoarseFine(), BACKBONES[0](), Logistics(4))
    assert model.generate(3, batch_size=2).shape == (2, 3, 2)
    assert not hasattr(AudioLM(MuLaw(), BACKBONES[0]()).head, "O1")


@torch.no_grad()
def test_a_mixture_over_few_levels_is_that_over_many_with_larger_steps():
    few, many, y = Logistics(8, 2).double(), Logistics(8, 256).double(), torch.randn(1, 8).double()
    many.load_state_dict(few.state_dict())
    edges = torch.arange(5)[None]  # of four steps, each around its value; one is 16,384 small steps
    coarse = few.interval(y, edges[:, :-1], edges[:, 1:]).exp2()
    fine = (edges * 2**14 - 2**13).clamp(min=0)
    fine[:, -1] = 2**16
    assert torch.allclose(coarse, many.interval(y, fine[:, :-1], fine[:, 1:]).exp2(), atol=1e-3)


@pytest.mark.parametrize(
    ("quantizer", "head"),
    [(CoarseFine(16), Logistics(4)), (CoarseFine(16), JointSoftmax(4)), (CoarseFine(), DualSoftmax(4, 16)),
     (CoarseFine(), Softmax(4, 256)), (MuLaw(), Logistics(4)), (MuLaw(128), Softmax(4, 256))],
)  # fmt: skip
def test_a_head_whose_codes_are_not_the_quantizers_is_refused(quantizer, head):
    with pytest.raises(ValueError, match=r"head must have . codes a sample of"):
        AudioLM(quantizer, BACKBONES[0](), head)
