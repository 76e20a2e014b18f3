"""SaShiMi's compiled loop against the model: every form of state space, either head, any tiers, any cache."""

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

# Each of these is compiled separately, by the number of tiers, what channels share, the rank and the head.
KINDS = {
    "paper": (2, SSMConfig(8), MuLaw()),
    "two tiers, 16 bits": (1, SSMConfig(8), CoarseFine()),
    "four tiers, diagonal": (3, SSMConfig(6, Form.DIAGONAL, "lin"), MuLaw()),
    "nothing shared, rank 2": (1, SSMConfig(6, Form.UNCONSTRAINED, "legt", tied=False), MuLaw()),
}


def a_sashimi(kind="paper", seed=0, pool=4, **settings):
    """With weights large enough that samples depend on the context."""
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


def some_codes(model, length, batch=1, seed=0):
    shape = (batch, length, 2) if isinstance(model.quantizer, CoarseFine) else (batch, length)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, codes, cache):
    """Return the logits of the first code of each sample by the parallel pass in double precision."""
    model = model.double()
    before, state = cache
    inputs = torch.cat([before[:, None], codes[:, :-1]], dim=1)
    return model(inputs, to(torch.float64, state))[0]


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
def test_the_same_seed_gives_the_same_codes(kind, width, n_layers, pool, ff, glu, unet, norm, batch, setting):
    shape = {"d_model": width, "n_layers": n_layers, "ff": ff, "glu": glu, "unet": unet, "norm": norm}
    model, sampling = a_sashimi(kind, pool=pool, **shape), SamplingConfig(*setting)
    wanted = model.generate(80, batch, sampling=sampling, seed=width)
    codes = compiled(model).generate(80, batch, sampling=sampling, seed=width)
    assert torch.equal(codes, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_16000_samples_are_those_of_the_parallel_pass(kind):
    model = a_sashimi(kind, glu=True, unet=kind == "paper")
    codes, cache = some_codes(model, 16_000), model.initial_cache(1)
    actual, _ = compiled(model).teacher_forced_logits(codes, cache)
    first = actual[..., 0, :] if actual.ndim == 4 else actual
    assert error(first, logits(model, codes, cache)) < 1e-5


def test_a_thousand_samples_after_a_prompt_are_the_same():
    model = a_sashimi(pool=5)
    prompt = some_codes(model, 103, 2)
    assert torch.equal(compiled(model).generate(1_000, prompt=prompt), model.generate(1_000, prompt=prompt))


@pytest.mark.parametrize("kind", ["paper", "two tiers, 16 bits"])
@pytest.mark.parametrize("unet", [False, True])
@torch.no_grad()
def test_the_model_and_the_engine_continue_each_others_caches(kind, unet):
    """At several positions in a frame."""
    model = a_sashimi(kind, unet=unet)
    engine, generator = compiled(model), torch.Generator().manual_seed(0)
    whole, _ = model.generate_from(model.initial_cache(2), 120, generator=generator)
    generator, cache, chunks = torch.Generator().manual_seed(0), model.initial_cache(2), []
    for length, generating in zip((1, 2, 7, 16, 31, 63), itertools.cycle((engine, model)), strict=False):
        chunk, cache = generating.generate_from(cache, length, generator=generator)
        chunks.append(chunk)
    assert torch.equal(torch.cat(chunks, dim=1), whole)


@torch.no_grad()
def test_chunks_in_several_threads_are_generation_in_one_call(monkeypatch):
    engine = compiled(a_sashimi())
    # Products take four sequences together, and then add in another order: here are fewer.
    whole = engine.generate(2_500, batch_size=3, seed=1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    generator, cache, chunks = torch.Generator().manual_seed(1), engine.initial_cache(3), []
    for length in (1, 1_500, 999):
        chunk, cache = engine.generate_from(cache, length, generator=generator)
        chunks.append(chunk)
    assert torch.equal(torch.cat(chunks, dim=1), whole)


@torch.no_grad()
def test_the_state_of_a_float64_model_is_float64():
    model = a_sashimi().double()
    _, (_, state) = compiled(model).generate_from(model.initial_cache(1), 20)
    model.sample_next(torch.zeros(1, dtype=torch.long), state, sample_token)
    assert state[1][0].dtype == torch.float64


def test_non_finite_logits_raise():
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
def test_a_model_without_a_loop_raises(model, because):
    with pytest.raises(ValueError, match=because):
        compiled(model)
