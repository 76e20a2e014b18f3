"""Coarser questions to a 16-bit model: the answers are those of adding up the probability of every value."""

import pytest
import torch

from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.evaluation.coarsen import coarse_bits, interval_bits, mulaw_bits, mulaw_edges
from sashimi_lib.models import SaShiMi, SaShiMiConfig, WaveRNN, WaveRNNConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.heads import DualSoftmax, Head, JointSoftmax, Logistics

LEVELS = 4  # values of a byte: 16 of a sample
GRID = MuLaw(6)  # its codes begin and end within a coarse code, span several, or share one


def lm(head: Head, levels: int = 256) -> AudioLM:
    return AudioLM(CoarseFine(levels), SaShiMi(SaShiMiConfig(4, 1)), head)


SMALL = {
    "dual": lambda: lm(DualSoftmax(4, LEVELS), LEVELS),
    "joint": lambda: lm(JointSoftmax(4, LEVELS), LEVELS),
    "WaveRNN": lambda: WaveRNN(WaveRNNConfig(8, levels=LEVELS)),
}
WHOLE = {
    "dual": lambda: lm(DualSoftmax(4)),
    "joint": lambda: lm(JointSoftmax(4)),
    "logistics": lambda: lm(Logistics(4)),
    "WaveRNN": lambda: WaveRNN(WaveRNNConfig(8)),
}


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """The model in double precision with large weights, so that its distributions are far from even."""
    with torch.no_grad():
        for parameter in [
            p for name, p in model.named_parameters() if name.startswith(("head", "O", "R", "I"))
        ]:
            parameter.mul_(3)
    return model.double()


@torch.no_grad()
def every_probability(model, codes: torch.Tensor, levels: int) -> torch.Tensor:
    """P(v_t | past) of all values at every sample, by scoring each in place of the true one."""
    every = torch.cartesian_prod(torch.arange(levels), torch.arange(levels))
    rows = []
    for t in range(codes.shape[1]):
        swapped = codes[:1, : t + 1].repeat(len(every), 1, 1)
        swapped[:, t] = every
        rows.append(2 ** model.log_likelihood(swapped)[:, t])
    return torch.stack(rows)


@pytest.mark.parametrize("name", SMALL)
def test_every_interval_is_the_sum_of_its_values(name):
    model = lively(SMALL[name]())
    codes = torch.randint(0, LEVELS, (1, 5, 2))
    p = every_probability(model, codes, LEVELS)
    assert p.max() > 3 / LEVELS**2  # not even: adding up the wrong values would show
    low, high = torch.combinations(torch.arange(LEVELS**2 + 1)).T[..., None].expand(2, -1, 5)
    given = interval_bits(model, codes.expand(len(low), 5, 2), low, high)
    k = torch.arange(LEVELS**2)
    inside = (low[..., None] <= k) & (k < high[..., None])
    torch.testing.assert_close(2**given, (p * inside).sum(-1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_coarse_and_mulaw_bits_are_those_of_the_range_that_a_sample_falls_in(name):
    model = lively(SMALL[name]())
    codes = torch.cartesian_prod(torch.arange(LEVELS), torch.arange(LEVELS))[torch.randperm(16)][None, :8]
    p = every_probability(model, codes, LEVELS)
    every = torch.cartesian_prod(torch.arange(LEVELS), torch.arange(LEVELS))
    for bits, code in (
        (coarse_bits(model, codes), lambda codes: codes[:, 0]),
        (mulaw_bits(model, codes, GRID), lambda codes: GRID.encode(CoarseFine(LEVELS).decode(codes))),
    ):
        same = code(every) == code(codes[0])[:, None]
        torch.testing.assert_close(2 ** bits[0], (p * same).sum(1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", WHOLE)
def test_all_mulaw_codes_and_all_coarse_codes_sum_to_one(name):
    model, edges = lively(WHOLE[name]()), mulaw_edges()
    codes = torch.randint(0, 256, (1, 2, 2))
    for low, high in ((edges[:-1], edges[1:]), (256 * torch.arange(256), 256 * torch.arange(1, 257))):
        many = codes.expand(256, 2, 2)
        bits = interval_bits(model, many, *(edge[:, None].expand(256, 2) for edge in (low, high)))
        torch.testing.assert_close((2**bits).sum(0), torch.ones(2, dtype=bits.dtype))


@pytest.mark.parametrize("name", WHOLE)
def test_an_interval_of_one_value_is_the_likelihood_and_of_all_is_certain(name):
    model, codes = lively(WHOLE[name]()), torch.randint(0, 256, (1, 280, 2))
    value = 256 * codes[..., 0] + codes[..., 1]
    single = interval_bits(model, codes, value, value + 1)
    torch.testing.assert_close(single, model.log_likelihood(codes).detach())
    everything = interval_bits(model, codes, torch.zeros_like(value), torch.full_like(value, 65_536))
    torch.testing.assert_close(everything, torch.zeros_like(everything))
    assert (mulaw_bits(model, codes) >= single).all()
    assert (coarse_bits(model, codes) >= single).all()


def test_the_coarse_bits_are_those_of_the_coarse_softmax():
    model, codes = lively(lm(DualSoftmax(4))), torch.randint(0, 256, (2, 20, 2))
    before = torch.cat([torch.tensor([128, 0]).expand(2, 1, 2), codes[:, :-1]], dim=1)
    expected = model(before)[0].log_softmax(-1).gather(-1, codes[..., :1])[..., 0] / torch.log(
        torch.tensor(2.0)
    )
    torch.testing.assert_close(coarse_bits(model, codes), expected.detach())


def test_every_16_bit_value_lies_between_the_edges_of_its_own_mulaw_code():
    every = torch.arange(65_536)
    q = MuLaw().encode(CoarseFine().decode(torch.stack([every // 256, every % 256], dim=-1)))
    edges = mulaw_edges()
    assert torch.equal(torch.bincount(q, minlength=256), edges.diff())
    assert (edges[q] <= every).all()
    assert (every < edges[q + 1]).all()


def test_codes_far_out_keep_their_probability_in_single_precision():
    model, codes = lm(Logistics(4)), torch.tensor([[[255, 255]]])
    assert mulaw_bits(model, codes).isfinite().all()
    torch.testing.assert_close(
        mulaw_bits(model, codes).double(), mulaw_bits(model.double(), codes), rtol=1e-4, atol=0
    )


def test_what_is_no_interval_or_no_16_bit_model_is_refused():
    model, codes = WHOLE["dual"](), torch.zeros(1, 3, 2, dtype=torch.long)
    three = torch.full((1, 3), 3)
    for low, high in ((three, three), (three - 4, three), (three, three + 65_536)):
        with pytest.raises(ValueError, match="low and high must be intervals within"):
            interval_bits(model, codes, low, high)
    with pytest.raises(ValueError, match="model must predict coarse and fine codes"):
        mulaw_bits(AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(4, 1))), codes)
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.255"):
        mulaw_bits(model, codes + 256)
