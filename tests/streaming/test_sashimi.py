"""SaShiMi's compiled loop against the model: every form of state space, either head, any tiers, any past."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.models import IsotropicConfig, IsotropicS4, SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.heads import JointSoftmax
from sashimi_lib.models.sampling import SamplingConfig, sample_token
from sashimi_lib.ssm.s4 import Form, SSMConfig
from sashimi_lib.streaming import compiled
from tests.streaming.helpers import error

# One process compiles for all of these.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("compiled SaShiMi")]

# Each of these is compiled by itself: how many tiers, what channels share, the rank, the head.
KINDS = {
    "paper": (2, SSMConfig(8), MuLaw()),
    "two tiers, 16 bits": (1, SSMConfig(8), CoarseFine()),
    "four tiers, diagonal": (3, SSMConfig(6, Form.DIAGONAL, "lin"), MuLaw()),
    "nothing shared, rank 2": (1, SSMConfig(6, Form.UNCONSTRAINED, "legt", tied=False), MuLaw()),
}


def a_sashimi(kind="paper", seed=0, pool=4, **settings):
    """With weights large enough that what it draws depends on what it heard."""
    tiers, ssm, quantizer = KINDS[kind]
    torch.manual_seed(seed)
    shape = {"d_model": 16, "n_layers": 2, "pool": (pool,) * tiers, "ssm": ssm, **settings}
    model = AudioLM(quantizer, SaShiMi(SaShiMiConfig(**shape)))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "ssm" not in name:
                p.mul_(1.5)
            elif name.endswith((".C", ".D")):
                p.mul_(2)
    return model


def heard(model, length, batch=1, seed=0):
    shape = (batch, length, 2) if isinstance(model.quantizer, CoarseFine) else (batch, length)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, codes, cache):
    """Of the first code of each sample, by the parallel pass in double precision; and the past after them."""
    model = model.double()
    before, state = cache
    after = torch.cat([before[:, None], codes[:, :-1]], dim=1)
    return model(after, to(torch.float64, state))[0]


def to(dtype, state):
    if isinstance(state, tuple):
        return tuple(to(dtype, part) for part in state)
    return state.to(dtype) if state.is_floating_point() else state


@given(
    st.sampled_from(sorted(KINDS)), st.sampled_from([4, 16, 20, 48]), st.integers(1, 3), st.integers(2, 5),
    st.integers(1, 3), st.booleans(), st.booleans(), st.sampled_from(["scalar", "layer"]),
    st.sampled_from([1, 2, 5, 9]), st.sampled_from([(1.0, 1.0), (0.7, 1.0), (1.2, 0.8), (0.9, 0.9, 20)]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_the_same_seed_draws_the_same_codes(kind, width, n_layers, pool, ff, glu, unet, norm, batch, setting):
    shape = {"d_model": width, "n_layers": n_layers, "ff": ff, "glu": glu, "unet": unet, "norm": norm}
    model, sampling = a_sashimi(kind, pool=pool, **shape), SamplingConfig(*setting)
    wanted = model.generate(80, batch, sampling=sampling, seed=width)
    drawn = compiled(model).generate(80, batch, sampling=sampling, seed=width)
    assert torch.equal(drawn, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_over_16000_forced_samples(kind):
    model = a_sashimi(kind, glu=True, unet=kind == "paper")
    codes, cache = heard(model, 16_000), model.initial_cache(1)
    actual, _ = compiled(model).teacher_forced_logits(codes, cache)
    first = actual[..., 0, :] if actual.ndim == 4 else actual
    assert error(first, logits(model, codes, cache)) < 1e-5


def test_a_thousand_samples_after_a_prompt():
    model = a_sashimi(pool=5)
    prompt = heard(model, 103, 2)
    assert torch.equal(compiled(model).generate(1_000, prompt=prompt), model.generate(1_000, prompt=prompt))


@pytest.mark.parametrize("kind", ["paper", "two tiers, 16 bits"])
@pytest.mark.parametrize("unet", [False, True])
@torch.no_grad()
def test_the_model_goes_on_from_it_and_it_from_the_model(kind, unet):
    """At every place in a frame."""
    model = a_sashimi(kind, unet=unet)
    engine, generator = compiled(model), torch.Generator().manual_seed(0)
    whole, _ = model.generate_from(model.initial_cache(2), 120, generator=generator)
    generator, cache, pieces = torch.Generator().manual_seed(0), model.initial_cache(2), []
    for length, who in zip((1, 2, 7, 16, 31, 63), itertools.cycle((engine, model)), strict=False):
        piece, cache = who.generate_from(cache, length, generator=generator)
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces, dim=1), whole)


@torch.no_grad()
def test_it_goes_on_in_pieces_in_any_number_of_threads(monkeypatch):
    engine = compiled(a_sashimi())
    whole = engine.generate(2_500, batch_size=3, seed=1)  # fewer than share a column: they sum in one order
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    generator, cache, pieces = torch.Generator().manual_seed(1), engine.initial_cache(3), []
    for length in (1, 1_500, 999):
        piece, cache = engine.generate_from(cache, length, generator=generator)
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces, dim=1), whole)


@torch.no_grad()
def test_a_model_in_double_precision_keeps_its_state_so():
    model = a_sashimi().double()
    _, (_, state) = compiled(model).generate_from(model.initial_cache(1), 20)
    model.sample_next(torch.zeros(1, dtype=torch.long), state, sample_token)
    assert state[1][0].dtype == torch.float64


def test_an_infinite_weight_is_reported():
    model = a_sashimi()
    with torch.no_grad():
        model.head.bias[3] = torch.inf
    with pytest.raises(ValueError, match="logits must be finite"):
        compiled(model).generate(5)


@pytest.mark.parametrize(
    ("model", "because"),
    [
        (AudioLM(MuLaw(), IsotropicS4(IsotropicConfig(8, 1))), "got IsotropicS4"),
        (AudioLM(CoarseFine(), SaShiMi(SaShiMiConfig(8, 1)), JointSoftmax(8, 256)), "got JointSoftmax"),
    ],
)
def test_what_has_no_loop_is_refused_by_name(model, because):
    with pytest.raises(ValueError, match=because):
        compiled(model)
