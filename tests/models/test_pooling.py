"""Pooling and its shift: which samples each output depends on, causality, and the output without the
shift."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.blocks import FeedForward, S4Block, SequenceModel, Stack
from sashimi_lib.models.pooling import DownPool, Hourglass, UpPool
from tests.streaming.helpers import by_steps

POOL = 4


class Recorder(SequenceModel):
    """The identity, which counts its steps."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def initial_state(self, batch_size):
        return ()

    def forward(self, x, state=None):
        return x, state

    def step(self, x_t, state):
        self.steps += 1
        return x_t, state


def hourglass(causal=True, inner=None, pool=POOL, width=3):
    inner = Stack([S4Block(2 * width), FeedForward(2 * width)]) if inner is None else inner
    return Hourglass(DownPool(width, 2 * width, pool), inner, UpPool(2 * width, width, pool), causal)


# DownPool and UpPool


def test_a_frame_is_a_linear_map_of_its_own_samples_channel_by_channel():
    down, x = DownPool(3, 5, POOL), torch.randn(2, 8, 3)
    for frame in range(2):
        samples = x[:, POOL * frame : POOL * (frame + 1)]
        columns = torch.stack([samples[:, s, h] for h in range(3) for s in range(POOL)], dim=-1)
        assert torch.allclose(down(x)[:, frame], down.linear(columns), atol=1e-6)


def test_a_frame_is_upsampled_to_its_own_samples_channel_by_channel():
    up, z = UpPool(5, 3, POOL), torch.randn(2, 2, 5)
    samples = up.linear(z)
    for t in range(8):
        for h in range(3):
            assert torch.equal(up(z)[:, t, h], samples[:, t // POOL, h * POOL + t % POOL])


@pytest.mark.parametrize("pool", [2, 3, 4, 8])
@pytest.mark.parametrize("normed", [False, True])
def test_pools_change_lengths_by_their_factor(pool, normed):
    z = DownPool(3, 6, pool, normed)(torch.randn(2, 5 * pool, 3))
    assert z.shape == (2, 5, 6)
    assert UpPool(6, 3, pool, normed)(z).shape == (2, 5 * pool, 3)


def test_down_and_up_with_identity_weights_give_the_input_back():
    down, up, x = DownPool(3, 12, POOL), UpPool(12, 3, POOL), torch.randn(2, 8, 3)
    for linear in (down.linear, up.linear):
        torch.nn.init.eye_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    assert torch.equal(up(down(x)), x)


@given(length=st.integers(0, 200), pool=st.integers(2, 9))
@settings(max_examples=50)
def test_a_length_the_factor_does_not_divide_is_refused_with_both_numbers(length, pool):
    down, x = DownPool(2, 3, pool), torch.zeros(1, length, 2)
    if length % pool == 0:
        assert down(x).shape == (1, length // pool, 3)
    else:
        with pytest.raises(ValueError, match=f"x .* multiple of {pool}, got {length} samples"):
            down(x)


def test_a_model_names_the_length_but_a_language_model_takes_any():
    backbone = SaShiMi(SaShiMiConfig(d_model=4, n_layers=1))
    with pytest.raises(ValueError, match="multiple of 4, got 18"):
        backbone(torch.randn(1, 18, 4))
    assert AudioLM(MuLaw(), backbone)(torch.full((1, 18), 128))[0].shape == (1, 18, 256)


# Hourglass


def test_the_shift_delays_the_output_by_one_frame_of_zeros():
    shifted = hourglass()
    plain = Hourglass(shifted.down, shifted.inner, shifted.up, causal=False)
    x = torch.randn(2, 16, 3)
    assert torch.equal(shifted(x)[0][:, POOL:], plain(x)[0][:, :-POOL])
    assert not shifted(x)[0][:, :POOL].any()


@torch.no_grad()
def test_the_inner_model_is_stepped_once_a_frame():
    inner = Recorder()
    model = hourglass(inner=inner)
    state, steps = model.initial_state(1), []
    for t in range(12):
        before = inner.steps
        _, state = model.step(torch.randn(1, 3), state)
        steps += [t] * (inner.steps - before)
    assert steps == [3, 7, 11]


@torch.no_grad()
def test_nested_hourglasses_step_every_sixteenth_sample():
    inner = Recorder()
    middle = Hourglass(DownPool(6, 12, POOL), inner, UpPool(12, 6, POOL), causal=True)
    by_steps(hourglass(inner=middle), torch.randn(1, 64, 3))
    assert inner.steps == 4


@given(before=st.integers(1, 40), after=st.integers(1, 40))
@settings(max_examples=25)
@torch.no_grad()
def test_a_sequence_may_be_cut_anywhere(before, after):
    model = hourglass().double()
    x = torch.randn(1, before + after, 3, dtype=torch.float64)
    first, state = model(x[:, :before], model.initial_state(1))
    second, _ = model(x[:, before:], state)
    assert torch.allclose(torch.cat([first, second], dim=1), by_steps(model, x)[0], atol=1e-12)
