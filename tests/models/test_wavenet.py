"""WaveNet: the published sizes, equal results in all modes, and exactly its receptive field."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sashimi_lib.audio.quantizers import Linear, MuLaw
from sashimi_lib.models import WaveNet, WaveNetConfig
from sashimi_lib.models.audio_lm import AudioLM
from tests.streaming.helpers import by_steps, in_chunks

WIDTHS = ["d_residual", "d_dilation", "d_skip", "d_end", "d_model"]
SMALL = WaveNetConfig(stacks=2, layers=4, d_residual=6, d_dilation=5, d_skip=8, d_end=7, d_model=4)


def small(seed=0, config=SMALL):
    torch.manual_seed(seed)
    return WaveNet(config).double()


def noise(batch, length, d_model=SMALL.d_model):
    return torch.randn(batch, length, d_model, dtype=torch.float64)


# PAPERS: counts of the published code, embedding and head of 256 x 256 included


@pytest.mark.parametrize(("d_skip", "count"), [(512, 2_671_616), (1024, 4_244_480)])
def test_the_paper_s_models_have_the_paper_s_parameters(d_skip, count):
    model = AudioLM(MuLaw(), WaveNet(WaveNetConfig(d_skip=d_skip)))
    assert sum(p.numel() for p in model.parameters()) == count


def test_the_paper_s_model_has_a_receptive_field_of_4093_samples():
    assert WaveNetConfig().receptive_field == 4093
    assert SMALL.receptive_field == 31


def test_all_but_the_last_residual_map_get_a_gradient():
    model = small()
    model(noise(2, 40))[0].square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == ["layers.7.residual.weight"]


@torch.no_grad()
def test_the_impulse_response_is_4093_samples_long():
    model = small(config=WaveNetConfig(**dict.fromkeys(WIDTHS, 1)))
    for parameter in model.parameters():  # nothing cancels: matrices of ones, no bias
        parameter.fill_(parameter.ndim > 1)
    x = torch.zeros(1, 4200, 1, dtype=torch.float64)
    x[:, 50] = 1
    response = model(x)[0][0, :, 0].nonzero()[:, 0]
    assert torch.equal(response, torch.arange(50, 50 + 4093))


@given(
    stacks=st.integers(1, 3),
    layers=st.integers(1, 5),
    widths=st.tuples(*[st.integers(1, 6)] * 5),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
@settings(max_examples=30, deadline=None)
@torch.no_grad()
def test_chunks_followed_by_steps_equal_the_whole_sequence_for_any_shape(stacks, layers, widths, cuts):
    model = small(config=WaveNetConfig(stacks, layers, *widths))
    x = noise(2, sum(cuts) + 20, widths[-1])
    first, state = in_chunks(model, x[:, : sum(cuts)], cuts)
    last, _ = by_steps(model, x[:, sum(cuts) :], state)
    assert torch.allclose(torch.cat([first, last], dim=1), model(x)[0], rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_a_step_does_not_copy_the_queue():
    model = small()
    _, before = in_chunks(model, noise(2, 40), 40)
    _, after = model.step(noise(2, 1)[:, 0], before)
    for old, new in zip(before, after, strict=True):
        assert all(kept is moved for kept, moved in zip(old[1:], new, strict=False))


@pytest.mark.parametrize(
    "name", ["stacks", "layers", "d_residual", "d_dilation", "d_skip", "d_end", "d_model"]
)
def test_impossible_shapes_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        WaveNetConfig(**{name: 0})


@pytest.mark.parametrize("quantizer", [MuLaw(), Linear(256), Linear(64), MuLaw(16)])
@torch.no_grad()
def test_it_works_with_any_quantizer(quantizer):
    model = AudioLM(quantizer, small()).double()
    prompt = torch.randint(quantizer.levels, (2, 37))
    codes = model.generate(12, prompt=prompt, seed=3)
    assert codes.shape == (2, 12)
    assert int(codes.max()) < quantizer.levels
    assert torch.equal(codes, model.generate(12, prompt=prompt, seed=3))
    sequence = torch.cat([prompt, codes], dim=1)
    first, cache = model.log_likelihood_from(sequence[:, :20], model.initial_cache(2))
    second, _ = model.log_likelihood_from(sequence[:, 20:], cache)
    assert torch.allclose(torch.cat([first, second], dim=1), model.log_likelihood(sequence), atol=1e-5)


@pytest.mark.parametrize(("layers", "learns"), [(2, False), (3, True)])
def test_it_learns_what_lies_in_its_receptive_field(layers, learns):
    """Random bits with period 8: a receptive field of 8 holds the answer, one of 4 holds nothing of it."""
    torch.manual_seed(0)
    model = AudioLM(Linear(2), WaveNet(WaveNetConfig(1, layers, 16, 16, 32, 32, 16)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    for _ in range(150):
        codes = torch.randint(2, (8, 8)).repeat(1, 8)
        bits = -model.log_likelihood(codes)[:, 8:].mean()
        optimizer.zero_grad()
        bits.backward()
        optimizer.step()
    assert (bits < 0.05) if learns else (bits > 0.95)
