"""WaveNet's compiled loop against the model: any stacks and widths, either head, any cache."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.models import WaveNet, WaveNetConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.autoregressive import shift_right
from sashimi_lib.models.sampling import SamplingConfig, sample_token
from sashimi_lib.streaming import compiled
from tests.streaming.helpers import error

# One process compiles for all of these.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("compiled WaveNet")]

SMALL = WaveNetConfig(stacks=2, layers=4, d_residual=20, d_dilation=12, d_skip=24, d_end=16, d_model=10)
RECEPTIVE_FIELD = 31
QUANTIZERS = {"one softmax": MuLaw(), "dual softmax": CoarseFine()}
either_head = pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)


def a_wavenet(quantizer=QUANTIZERS["one softmax"], config=SMALL, scale=2.5, seed=0):
    """With weights large enough that samples depend on the context."""
    torch.manual_seed(seed)
    model = AudioLM(quantizer, WaveNet(config))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    return model


def some_codes(model, length, batch=1):
    two = (2,) if isinstance(model.quantizer, CoarseFine) else ()
    return torch.randint(0, 256, (batch, length, *two), generator=torch.Generator().manual_seed(7))


def in_turn(length, cache, *models):
    """Generate codes in chunks of 1, 2, 4 ... by each of the models in turn; and the cache after them."""
    generator, chunks = torch.Generator().manual_seed(1), []
    for i, model in enumerate(itertools.cycle(models)):
        chunk, cache = model.generate_from(cache, min(2**i, length), generator=generator)
        chunks.append(chunk)
        length -= chunk.shape[1]
        if not length:
            return torch.cat(chunks, dim=1), cache


widths = st.sampled_from([5, 8, 16, 20, 33])  # narrower ones compile to another loop, see the next test


@given(
    st.sampled_from(sorted(QUANTIZERS)), st.integers(1, 3), st.integers(1, 5), widths, widths, widths, widths,
    widths, st.integers(1, 4), st.integers(0, 80),
    st.sampled_from([(1.0, 1.0), (0.7, 1.0), (1.2, 0.8), (0.9, 0.9, 20)]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_the_same_seed_gives_the_same_codes(
    kind, stacks, layers, residual, dilation, skip, end, d_model, batch, context, setting
):
    config = WaveNetConfig(stacks, layers, residual, dilation, skip, end, d_model)
    model = a_wavenet(QUANTIZERS[kind], config, seed=context)
    settings = {"prompt": some_codes(model, context, batch), "sampling": SamplingConfig(*setting)}
    assert torch.equal(compiled(model).generate(60, **settings), model.generate(60, **settings))


def test_narrow_layers_give_the_same_codes():
    """Padding makes their matrices sparse."""
    model = a_wavenet(config=WaveNetConfig(2, 3, d_residual=2, d_dilation=1, d_skip=3, d_end=2, d_model=4))
    assert torch.equal(compiled(model).generate(100, 3), model.generate(100, 3))


def test_the_papers_shape_gives_the_same_codes():
    model = a_wavenet(config=WaveNetConfig())
    assert torch.equal(compiled(model).generate(300), model.generate(300))


@either_head
@torch.no_grad()
def test_logits_are_those_of_the_parallel_pass(quantizer):
    """In double precision, over 4,003 teacher-forced samples of two sequences, after a prefill."""
    model = a_wavenet(quantizer)
    codes = some_codes(model, 4_003, 2)
    cache = model.prefill(some_codes(model, 20, 2), model.initial_cache(2))
    actual, (last, state) = compiled(model).teacher_forced_logits(codes, cache)
    (_, expected_state), (before, state_before) = model.prefill(codes, cache), cache
    model = model.double()
    doubled = tuple(tuple(x.double() for x in queue) for queue in state_before)
    y, _ = model.features(shift_right(codes, before), doubled)
    expected = model.head(y)
    if isinstance(quantizer, CoarseFine):
        expected = torch.stack([expected, model.head.fine(y, codes[..., 0])], dim=2)
    assert error(actual, expected) < 1e-5
    assert torch.equal(last, codes[:, -1])
    for queue, expected_queue in zip(state, expected_state, strict=True):
        assert error(torch.stack(queue), torch.stack(expected_queue)) < 1e-5


@either_head
@pytest.mark.parametrize("length", [RECEPTIVE_FIELD - 8, 3 * RECEPTIVE_FIELD], ids=["short", "long"])
def test_prompts_shorter_and_longer_than_the_receptive_field(quantizer, length):
    model = a_wavenet(quantizer)
    assert model.backbone.config.receptive_field == RECEPTIVE_FIELD
    prompt = some_codes(model, length, 2)
    assert torch.equal(compiled(model).generate(400, prompt=prompt), model.generate(400, prompt=prompt))


@either_head
@torch.no_grad()
def test_the_model_and_the_engine_continue_each_others_caches(quantizer):
    model = a_wavenet(quantizer)
    engine, cache = compiled(model), model.initial_cache(2)
    whole, (last, state) = in_turn(200, cache, model)
    for order in ((model, engine), (engine, model)):
        codes, (end, end_state) = in_turn(200, cache, *order)
        assert torch.equal(codes, whole)
        assert torch.equal(end, last)
        for queue, expected in zip(end_state, state, strict=True):
            assert error(torch.stack(queue), torch.stack(expected)) < 1e-5


@torch.no_grad()
def test_chunks_in_several_threads_are_generation_in_one_call(monkeypatch):
    engine = compiled(a_wavenet())
    whole, _ = engine.generate_from(
        engine.initial_cache(5), 3_000, generator=torch.Generator().manual_seed(1)
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(in_turn(3_000, engine.initial_cache(5), engine)[0], whole)


@torch.no_grad()
def test_generation_leaves_its_input_cache_unchanged():
    engine = compiled(a_wavenet())
    _, cache = in_turn(50, engine.initial_cache(1), engine)
    first, second = (in_turn(50, cache, engine)[0] for _ in range(2))
    assert torch.equal(first, second)


@torch.no_grad()
def test_the_state_of_a_float64_model_is_float64():
    model = a_wavenet().double()
    _, (code, state) = in_turn(20, model.initial_cache(1), compiled(model))
    assert all(x.dtype == torch.float64 for queue in state for x in queue)
    model.sample_next(code, state, sample_token)


@either_head
def test_non_finite_logits_raise(quantizer):
    model = a_wavenet(quantizer)
    with torch.no_grad():
        model.backbone.end[3].bias[3] = torch.inf
    with pytest.raises(ValueError, match="logits must be finite"):
        compiled(model).generate(5)
