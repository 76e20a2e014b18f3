"""Likelihoods of intervals under a 16-bit model are sums of the probabilities of their values."""

import pytest
import torch

from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.evaluation.coarsen import coarse_bits, interval_bits, mulaw_bits, mulaw_edges
from sashimi_lib.models import SaShiMi, SaShiMiConfig, WaveRNN, WaveRNNConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.heads import DualSoftmax, Head, JointSoftmax, Logistics

LEVELS = 4  # values of a byte: 16 values of a sample
GRID = MuLaw(6)  # its codes end within a coarse code, span several, or share one


def lm(head: Head, levels: int = 256) -> AudioLM:
    return AudioLM(CoarseFine(levels), SaShiMi(SaShiMiConfig(4, 1)), head)


SMALL = {
    "dual": lambda: lm(DualSoftmax(4, LEVELS), LEVELS),
    "joint": lambda: lm(JointSoftmax(4, LEVELS), LEVELS),
    "WaveRNN": lambda: WaveRNN(WaveRNNConfig(8, levels=LEVELS)),
}
FULL = {
    "dual": lambda: lm(DualSoftmax(4)),
    "joint": lambda: lm(JointSoftmax(4)),
    "logistics": lambda: lm(Logistics(4)),
    "WaveRNN": lambda: WaveRNN(WaveRNNConfig(8)),
}


def peaked(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model in float64 with large weights, so that its distributions are far from uniform."""
    with torch.no_grad():
        for parameter in [
            p for name, p in model.named_parameters() if name.startswith(("head", "O", "R", "I"))
        ]:
            parameter.mul_(3)
    return model.double()


@torch.no_grad()
def all_probabilities(model, codes: torch.Tensor, levels: int) -> torch.Tensor:
    """Return P(v_t | v_<t) of all values at every sample, by the likelihood of each."""
    values = torch.cartesian_prod(torch.arange(levels), torch.arange(levels))
    rows = []
    for t in range(codes.shape[1]):
        replaced = codes[:1, : t + 1].repeat(len(values), 1, 1)
        replaced[:, t] = values
        rows.append(2 ** model.log_likelihood(replaced)[:, t])
    return torch.stack(rows)


@pytest.mark.parametrize("name", SMALL)
def test_the_probability_of_an_interval_is_the_sum_over_its_values(name):
    model = peaked(SMALL[name]())
    codes = torch.randint(0, LEVELS, (1, 5, 2))
    p = all_probabilities(model, codes, LEVELS)
    assert p.max() > 3 / LEVELS**2  # not uniform, so that a sum of the wrong values differs
    low, high = torch.combinations(torch.arange(LEVELS**2 + 1)).T[..., None].expand(2, -1, 5)
    result = interval_bits(model, codes.expand(len(low), 5, 2), low, high)
    k = torch.arange(LEVELS**2)
    inside = (low[..., None] <= k) & (k < high[..., None])
    torch.testing.assert_close(2**result, (p * inside).sum(-1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_coarse_and_mulaw_bits_are_those_of_the_interval_of_each_sample(name):
    model = peaked(SMALL[name]())
    codes = torch.cartesian_prod(torch.arange(LEVELS), torch.arange(LEVELS))[torch.randperm(16)][None, :8]
    p = all_probabilities(model, codes, LEVELS)
    values = torch.cartesian_prod(torch.arange(LEVELS), torch.arange(LEVELS))
    for bits, code in (
        (coarse_bits(model, codes), lambda codes: codes[:, 0]),
        (mulaw_bits(model, codes, GRID), lambda codes: GRID.encode(CoarseFine(LEVELS).decode(codes))),
    ):
        same = code(values) == code(codes[0])[:, None]
        torch.testing.assert_close(2 ** bits[0], (p * same).sum(1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", FULL)
def test_all_mulaw_codes_and_all_coarse_codes_sum_to_one(name):
    model, edges = peaked(FULL[name]()), mulaw_edges()
    codes = torch.randint(0, 256, (1, 2, 2))
    for low, high in ((edges[:-1], edges[1:]), (256 * torch.arange(256), 256 * torch.arange(1, 257))):
        repeated = codes.expand(256, 2, 2)
        bits = interval_bits(model, repeated, *(edge[:, None].expand(256, 2) for edge in (low, high)))
        torch.testing.assert_close((2**bits).sum(0), torch.ones(2, dtype=bits.dtype))


@pytest.mark.parametrize("name", FULL)
def test_one_value_has_the_likelihood_of_the_sample_and_all_values_have_probability_one(name):
    model, codes = peaked(FULL[name]()), torch.randint(0, 256, (1, 280, 2))
    value = 256 * codes[..., 0] + codes[..., 1]
    single = interval_bits(model, codes, value, value + 1)
    torch.testing.assert_close(single, model.log_likelihood(codes).detach())
    total = interval_bits(model, codes, torch.zeros_like(value), torch.full_like(value, 65_536))
    torch.testing.assert_close(total, torch.zeros_like(total))
    assert (mulaw_bits(model, codes) >= single).all()
    assert (coarse_bits(model, codes) >= single).all()


def test_the_coarse_bits_are_those_of_the_coarse_softmax():
    model, codes = peaked(lm(DualSoftmax(4))), torch.randint(0, 256, (2, 20, 2))
    before = torch.cat([torch.tensor([128, 0]).expand(2, 1, 2), codes[:, :-1]], dim=1)
    expected = model(before)[0].log_softmax(-1).gather(-1, codes[..., :1])[..., 0] / torch.log(
        torch.tensor(2.0)
    )
    torch.testing.assert_close(coarse_bits(model, codes), expected.detach())


def test_every_16_bit_value_lies_between_the_edges_of_its_mulaw_code():
    values = torch.arange(65_536)
    q = MuLaw().encode(CoarseFine().decode(torch.stack([values // 256, values % 256], dim=-1)))
    edges = mulaw_edges()
    assert torch.equal(torch.bincount(q, minlength=256), edges.diff())
    assert (edges[q] <= values).all()
    assert (values < edges[q + 1]).all()


def test_improbable_codes_have_accurate_likelihoods_in_float32():
    model, codes = lm(Logistics(4)), torch.tensor([[[255, 255]]])
    assert mulaw_bits(model, codes).isfinite().all()
    torch.testing.assert_close(
        mulaw_bits(model, codes).double(), mulaw_bits(model.double(), codes), rtol=1e-4, atol=0
    )


def test_empty_intervals_and_8_bit_models_are_refused():
    model, codes = FULL["dual"](), torch.zeros(1, 3, 2, dtype=torch.long)
    three = torch.full((1, 3), 3)
    for low, high in ((three, three), (three - 4, three), (three, three + 65_536)):
        with pytest.raises(ValueError, match="low and high must be intervals within"):
            interval_bits(model, codes, low, high)
    with pytest.raises(ValueError, match="model must predict coarse and fine codes"):
        mulaw_bits(AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(4, 1))), codes)
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.255"):
        mulaw_bits(model, codes + 256)
