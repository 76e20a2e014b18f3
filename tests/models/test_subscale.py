"""Subscale WaveRNN: likelihood and samples follow its definition in all modes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sashimi_lib.audio.quantizers import CoarseFine
from sashimi_lib.evaluation.likelihood import clip_bits
from sashimi_lib.models.sampling import SamplingConfig, sample_token, sampler_from_uniforms
from sashimi_lib.models.subscale import (
    Subscale,
    SubscaleConfig,
    context_mask,
    generation_order,
)
from sashimi_lib.training.trainer import TrainingConfig, train
from tests.awkward import without_shape_checks

FACTORS = st.sampled_from([1, 2, 3, 4, 8, 16])
SETTINGS = {"factor": FACTORS, "lookahead": st.integers(0, 3), "seed": st.integers(0, 100)}


def tiny(factor=2, lookahead=1, levels=256, layers=2, seed=0):
    """A small model with large weights, so that every path has an effect."""
    torch.manual_seed(seed)
    model = Subscale(
        SubscaleConfig(8, factor, lookahead, d_conditioning=6, layers=layers, levels=levels)
    ).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return model


def all_clips(length):
    """Every sequence of `length` samples of two times one bit."""
    return torch.cartesian_prod(*[torch.arange(2)] * (2 * length)).view(-1, length, 2)


@torch.no_grad()
@pytest.mark.parametrize(("factor", "length"), [(2, 1), (2, 3), (2, 4), (3, 4), (4, 3), (4, 5)])
@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_the_probabilities_of_all_clips_sum_to_one(factor, length, lookahead):
    bits = tiny(factor, lookahead, levels=2).log_likelihood(all_clips(length)).sum(1)
    assert float((2**bits).sum()) == pytest.approx(1, abs=1e-12)


@torch.no_grad()
@settings(max_examples=25)
@given(**SETTINGS, positions=st.integers(1, 4))
def test_the_context_of_a_sample_is_that_of_the_definition(factor, lookahead, seed, positions):
    length = factor * positions
    codes = torch.randint(0, 256, (length, 2))
    changed = codes.repeat(length, 1, 1)
    changed[torch.arange(length), torch.arange(length)] += 100  # one sample a row
    depends = torch.zeros(length, length, dtype=torch.bool)  # (sample, context), both in time
    for draw in range(4):  # in one model as small as this a path may be dead, but not in all of them
        model = tiny(factor, lookahead, layers=3, seed=seed + draw)
        difference = model.log_likelihood(changed % 256) - model.log_likelihood(codes.expand_as(changed))
        depends |= (difference.abs() > 1e-12).T
    for t in range(length):
        expected = context_mask(positions, factor, lookahead, s=t % factor, i=t // factor).T.flatten()
        expected[t] = True  # the sample itself
        assert torch.equal(depends[t], expected)


def test_the_lookahead_is_exactly_f_and_the_context_is_the_receptive_field():
    model = tiny(factor=2, lookahead=2, layers=2)
    codes = torch.randint(0, 256, (1, 20, 2))
    affected = []
    for k in range(10):  # change sub-sequence 0 at position k: which u_{1,i} does it affect?
        other = codes.clone()
        other[:, 2 * k, 0] = (other[:, 2 * k, 0] + 100) % 256
        outputs = [
            model.context_cnn(model._scaled(c.unflatten(1, (-1, 2))))[-1][0, :, 1] for c in (codes, other)
        ]
        affected.append([int(j) for j in (outputs[0] - outputs[1]).abs().sum(-1).nonzero()])
    # Output j depends on positions j ... j + 3, and conditions the cell at position j + 3 - 2.
    assert affected == [[j for j in range(7) if j <= k <= j + 3] for k in range(10)]


@torch.no_grad()
@settings(max_examples=20)
@given(**SETTINGS, length=st.integers(1, 30), prompt=st.integers(0, 2))
def test_the_wavefront_generates_what_the_definition_generates(factor, lookahead, seed, length, prompt):
    model, prompt = tiny(factor, lookahead, seed=seed), torch.randint(0, 256, (2, prompt * factor, 2))
    options = {"prompt": prompt, "sampling": SamplingConfig(0.8, 0.9, 50), "seed": seed}
    parallel = model.generate(length, **options)
    with without_shape_checks():  # without shape checks, which take most of the time of thousands of passes
        sequential = model.generate_sequential(length, **options)
    assert parallel.shape == (2, length, 2)
    assert torch.equal(parallel, sequential)


@pytest.mark.parametrize(("factor", "lookahead", "n"), [(2, 0, 5), (4, 3, 7), (16, 2, 3), (1, 2, 4)])
def test_the_wavefront_takes_n_plus_b_minus_1_lags_and_generates_each_sample_once(
    factor, lookahead, n, monkeypatch
):
    model, batches = tiny(factor, lookahead), []
    sample_next = model.cell.sample_next
    monkeypatch.setattr(
        model.cell, "sample_next", lambda code, *rest: batches.append(len(code)) or sample_next(code, *rest)
    )
    model.generate(factor * n)
    order = generation_order(n, factor, lookahead)
    while batches[0] == 0:  # the CNN starts before sub-sequence 0
        batches.pop(0)
    assert batches == torch.bincount(order.flatten()).tolist()
    assert len(batches) == n + (factor - 1) * (lookahead + 1)


@given(FACTORS, st.integers(0, 3), st.integers(1, 6), st.data())
def test_the_context_of_a_sample_is_generated_at_earlier_steps_and_no_later_start_is_needed(B, F, n, data):
    s, i = data.draw(st.integers(0, B - 1)), data.draw(st.integers(0, n - 1))
    order, context = generation_order(n, B, F), context_mask(n, B, F, s, i)
    if context.any():
        latest = int(order[context].max())
        assert latest < order[s, i]
        if i > 0 or n > F:
            assert latest == order[s, i] - 1


@torch.no_grad()
@pytest.mark.parametrize(("factor", "length"), [(2, 3), (3, 2), (2, 2)])
def test_samples_have_the_frequencies_of_the_likelihood(factor, length):
    model = tiny(factor, lookahead=1, levels=2)
    expected = 2 ** model.log_likelihood(all_clips(length)).sum(1)
    n = 20_000
    samples = model.generate(length, batch_size=n, seed=1).flatten(1)
    value = samples @ 2 ** torch.arange(2 * length).flip(0)
    observed = torch.bincount(value, minlength=len(expected)) / n
    assert ((observed - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt() + 2 / n).all()


@torch.no_grad()
def test_with_one_sub_sequence_it_is_a_wavernn_with_constant_conditioning():
    model, codes = tiny(factor=1, lookahead=0), torch.randint(0, 256, (2, 12, 2))
    conditioning = model.context_cnn(torch.zeros(2, 15, 1, 2).double())[-1][:, :, 0]
    assert torch.equal(conditioning, conditioning[:, :1].expand_as(conditioning))
    expected, _ = model.cell.log_likelihood_from(codes, model.cell.initial_cache(2), conditioning)
    assert torch.allclose(model.log_likelihood(codes), expected, rtol=1e-12)


@torch.no_grad()
@settings(max_examples=20)
@given(**SETTINGS, length=st.integers(1, 40), more=st.integers(1, 20))
def test_silence_after_the_end_changes_nothing(factor, lookahead, seed, length, more):
    model, codes = tiny(factor, lookahead, seed=seed), torch.randint(0, 256, (1, length, 2))
    silence = torch.tensor(CoarseFine().silence).expand(1, more, 2)
    padded = model.log_likelihood(torch.cat([codes, silence], 1))[:, :length]
    assert torch.allclose(padded, model.log_likelihood(codes), rtol=1e-10)


@torch.no_grad()
def test_a_batch_of_clips_has_the_bits_of_each_clip_alone():
    model, clips = tiny(factor=4, lookahead=3), [torch.randint(0, 256, (length, 2)) for length in (33, 9, 50)]
    alone = torch.stack([-model.log_likelihood(clip[None]).mean() for clip in clips])
    assert torch.allclose(clip_bits(model, clips), alone, rtol=1e-12)


@torch.no_grad()
def test_chunks_differ_from_the_whole_sequence_only_by_their_lookahead():
    codes = torch.randint(0, 256, (2, 40, 2))
    for lookahead in (0, 2):
        model = tiny(factor=4, lookahead=lookahead)
        whole = model.log_likelihood(codes)
        first, cache = model.log_likelihood_from(codes[:, :20], model.initial_cache(2))
        second, _ = model.log_likelihood_from(codes[:, 20:], cache)
        same = torch.isclose(torch.cat([first, second], 1), whole, rtol=1e-10).all(0)
        first_affected = (
            4 * (5 - lookahead) + 1
        )  # at position 5 - F, the first with a lookahead beyond: s = 1
        assert bool(same[:first_affected].all())
        assert bool(same[20:].all()) == (lookahead == 0)  # the states of the cells differ too
        assert bool(same[:20].all()) == (lookahead == 0)


@torch.no_grad()
def test_a_chunk_is_a_distribution_given_the_chunk_before():
    model, clips = tiny(factor=2, lookahead=1, levels=2), all_clips(3)
    prompt = torch.tensor([[[0, 1], [1, 1]]]).expand(len(clips), -1, -1)
    cache = model.prefill(prompt, model.initial_cache(len(clips)))
    expected = 2 ** model.log_likelihood_from(clips, cache)[0].sum(1)
    assert float(expected.sum()) == pytest.approx(1, abs=1e-12)
    samples = model.generate(3, prompt=prompt[:1].expand(20_000, -1, -1), seed=2).flatten(1)
    observed = torch.bincount(samples @ 2 ** torch.arange(6).flip(0), minlength=64) / 20_000
    assert (observed - expected).abs().max() < 5 * math.sqrt(0.25 / 20_000)


@given(st.floats(0.3, 2), st.floats(0.05, 1), st.integers(0, 1000))
@settings(max_examples=20)
def test_given_uniforms_sample_from_the_distribution_of_sample_token(temperature, top_p, seed):
    n, logits = 4000, 2 * torch.randn(1, 6, generator=torch.Generator().manual_seed(seed))
    logits = logits.expand(n, 6)
    sampling = SamplingConfig(temperature, top_p)
    evenly = sampler_from_uniforms((torch.arange(n)[:, None] + 0.5) / n, sampling)(logits)
    samples = sample_token(logits, sampling, torch.Generator().manual_seed(seed))
    one, other = (torch.bincount(codes, minlength=6) / n for codes in (evenly, samples))
    assert (one - other).abs().max() < 5 * math.sqrt(0.25 / n)
    assert not ((one > 0) & (other == 0) & (one > 0.01)).any()


def test_the_ends_of_the_unit_interval_give_codes_of_the_nucleus():
    logits = torch.tensor([[-30.0, 2.0, 1.0, -30.0]]).expand(2, 4)
    ends = torch.tensor([[0.0], [1 - 2.0**-24]])
    assert sampler_from_uniforms(ends, SamplingConfig(top_p=0.9))(logits).tolist() == [1, 2]
    assert sampler_from_uniforms(ends, SamplingConfig(top_p=0.5))(logits).tolist() == [1, 1]


def test_a_tone_is_learned():
    model = Subscale(SubscaleConfig(32, factor=4, lookahead=1, d_conditioning=16, layers=3))
    tone = CoarseFine().encode(0.5 * torch.sin(0.2 * torch.arange(256.0)))
    clips = [tone, tone[:201]]
    history = train(model, clips, TrainingConfig(80, 2, lr=0.01), valid=clips, progress=False)
    assert history.loss[0] > 15
    assert history.valid[-1][1] < 11


def test_it_trains_on_chunks_too():
    model = Subscale(SubscaleConfig(16, factor=4, lookahead=1, d_conditioning=8, layers=2))
    tones = CoarseFine().encode(0.5 * torch.sin(0.2 * torch.arange(4 * 62.0))).view(4, 62, 2)
    history = train(model, tones, TrainingConfig(40, 4, lr=0.01, tbptt_length=20), progress=False)
    assert history.loss[-1] < history.loss[0] - 2


def test_invalid_settings_and_arguments_are_named():
    with without_shape_checks():
        for name, value in (("factor", 0), ("lookahead", -1), ("d_conditioning", 0), ("layers", 0)):
            with pytest.raises(ValueError, match=f"{name} must be at least"):
                SubscaleConfig(**{name: value})
        with pytest.raises(ValueError, match=r"layers must be enough .* lookahead=64, got 6"):
            SubscaleConfig(layers=6)
        with pytest.raises(ValueError, match="d_hidden must be even"):
            Subscale(SubscaleConfig(d_hidden=7))
        model = tiny(factor=4)
        for method in (model.generate, model.generate_sequential):
            with pytest.raises(ValueError, match="length must be at least 1"):
                method(0)
            with pytest.raises(ValueError, match=r"cache must be of a length that is a multiple of factor=4"):
                method(4, prompt=torch.zeros(1, 6, 2, dtype=torch.long))
            with pytest.raises(ValueError, match=r"prompt must lie in 0\.\.255"):
                method(4, prompt=torch.full((1, 8, 2), 256))
        with pytest.raises(ValueError, match="codes must have shape"):
            model.log_likelihood(torch.zeros(1, 6, dtype=torch.long))
