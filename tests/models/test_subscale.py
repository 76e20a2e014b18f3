"""Subscale WaveRNN: likelihood and samples are those of its definition, whichever way they are computed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sashimi_lib.audio.quantizers import CoarseFine
from sashimi_lib.evaluation.likelihood import clip_bits
from sashimi_lib.models.audio_lm import sample_token
from sashimi_lib.models.sampling import SamplingConfig, sampler_from_uniforms
from sashimi_lib.models.subscale import (
    Subscale,
    SubscaleConfig,
    context_mask,
    generation_order,
)
from sashimi_lib.training.trainer import TrainingConfig, train
from tests.awkward import as_a_reader

FACTORS = st.sampled_from([1, 2, 3, 4, 8, 16])
SETTINGS = {"factor": FACTORS, "lookahead": st.integers(0, 3), "seed": st.integers(0, 100)}


def tiny(factor=2, lookahead=1, levels=256, layers=2, seed=0):
    """A small model whose every part speaks up, with nothing left near zero."""
    torch.manual_seed(seed)
    model = Subscale(
        SubscaleConfig(8, factor, lookahead, d_conditioning=6, layers=layers, levels=levels)
    ).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return model


def all_sounds(length):
    """Every sequence of `length` samples of two times one bit."""
    return torch.cartesian_prod(*[torch.arange(2)] * (2 * length)).view(-1, length, 2)


@torch.no_grad()
@pytest.mark.parametrize(("factor", "length"), [(2, 1), (2, 3), (2, 4), (3, 4), (4, 3), (4, 5)])
@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_the_probabilities_of_all_sounds_sum_to_one(factor, length, lookahead):
    bits = tiny(factor, lookahead, levels=2).log_likelihood(all_sounds(length)).sum(1)
    assert float((2**bits).sum()) == pytest.approx(1, abs=1e-12)


@torch.no_grad()
@settings(max_examples=25)
@given(**SETTINGS, positions=st.integers(1, 4))
def test_a_sample_hears_all_that_the_definition_allows_and_nothing_else(factor, lookahead, seed, positions):
    length = factor * positions
    codes = torch.randint(0, 256, (length, 2))
    changed = codes.repeat(length, 1, 1)
    changed[torch.arange(length), torch.arange(length)] += 100  # one sample a row
    hears = torch.zeros(length, length, dtype=torch.bool)  # (who, whom), both in time
    for draw in range(4):  # in a model as small as these a path may be dead, but not in all of them
        model = tiny(factor, lookahead, layers=3, seed=seed + draw)
        difference = model.log_likelihood(changed % 256) - model.log_likelihood(codes.expand_as(changed))
        hears |= (difference.abs() > 1e-12).T
    for t in range(length):
        expected = context_mask(positions, factor, lookahead, s=t % factor, i=t // factor).T.flatten()
        expected[t] = True  # a change of its own
        assert torch.equal(hears[t], expected)


def test_the_look_ahead_is_exactly_f_and_the_past_as_long_as_the_network():
    model = tiny(factor=2, lookahead=2, layers=2)
    codes = torch.randint(0, 256, (1, 20, 2))
    hears = []
    for k in range(10):  # change sub-sequence 0 at place k: which u_{1,i} notice at once?
        other = codes.clone()
        other[:, 2 * k, 0] = (other[:, 2 * k, 0] + 100) % 256
        said = [
            model.context_cnn(model._scaled(c.unflatten(1, (-1, 2))))[-1][0, :, 1] for c in (codes, other)
        ]
        hears.append([int(j) for j in (said[0] - said[1]).abs().sum(-1).nonzero()])
    # Output j has heard places j ... j + 3, and is told to the cell at place j + 3 - 2.
    assert hears == [[j for j in range(7) if j <= k <= j + 3] for k in range(10)]


@torch.no_grad()
@settings(max_examples=20)
@given(**SETTINGS, length=st.integers(1, 30), prompt=st.integers(0, 2))
def test_the_wavefront_makes_what_the_definition_makes(factor, lookahead, seed, length, prompt):
    model, prompt = tiny(factor, lookahead, seed=seed), torch.randint(0, 256, (2, prompt * factor, 2))
    given = {"prompt": prompt, "sampling": SamplingConfig(0.8, 0.9, 50), "seed": seed}
    wave = model.generate(length, **given)
    with as_a_reader():  # thousands of passes: checking their shapes would take most of the time
        in_order = model.generate_sequential(length, **given)
    assert wave.shape == (2, length, 2)
    assert torch.equal(wave, in_order)


@pytest.mark.parametrize(("factor", "lookahead", "n"), [(2, 0, 5), (4, 3, 7), (16, 2, 3), (1, 2, 4)])
def test_the_wavefront_takes_n_and_b_minus_1_lags_and_makes_each_sample_once(
    factor, lookahead, n, monkeypatch
):
    model, together = tiny(factor, lookahead), []
    draw = model.cell.sample_next
    monkeypatch.setattr(
        model.cell, "sample_next", lambda code, *rest: together.append(len(code)) or draw(code, *rest)
    )
    model.generate(factor * n)
    made = generation_order(n, factor, lookahead)
    while together[0] == 0:  # sub-sequence 0 listens first
        together.pop(0)
    assert together == torch.bincount(made.flatten()).tolist()
    assert len(together) == n + (factor - 1) * (lookahead + 1)


@given(FACTORS, st.integers(0, 3), st.integers(1, 6), st.data())
def test_whatever_a_sample_hears_was_made_at_an_earlier_tick_and_no_later_start_is_needed(B, F, n, data):
    s, i = data.draw(st.integers(0, B - 1)), data.draw(st.integers(0, n - 1))
    made, hears = generation_order(n, B, F), context_mask(n, B, F, s, i)
    if hears.any():
        latest = int(made[hears].max())
        assert latest < made[s, i]
        if i > 0 or n > F:
            assert latest == made[s, i] - 1


@torch.no_grad()
@pytest.mark.parametrize(("factor", "length"), [(2, 3), (3, 2), (2, 2)])
def test_samples_are_drawn_as_often_as_the_likelihood_says(factor, length):
    model = tiny(factor, lookahead=1, levels=2)
    expected = 2 ** model.log_likelihood(all_sounds(length)).sum(1)
    n = 20_000
    drawn = model.generate(length, batch_size=n, seed=1).flatten(1)
    number = drawn @ 2 ** torch.arange(2 * length).flip(0)
    observed = torch.bincount(number, minlength=len(expected)) / n
    assert ((observed - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt() + 2 / n).all()


@torch.no_grad()
def test_with_one_sub_sequence_it_is_a_wavernn_that_is_told_nothing_new():
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
    longer = model.log_likelihood(torch.cat([codes, silence], 1))[:, :length]
    assert torch.allclose(longer, model.log_likelihood(codes), rtol=1e-10)


@torch.no_grad()
def test_clips_of_different_lengths_are_judged_side_by_side_as_alone():
    model, clips = tiny(factor=4, lookahead=3), [torch.randint(0, 256, (length, 2)) for length in (33, 9, 50)]
    alone = torch.stack([-model.log_likelihood(clip[None]).mean() for clip in clips])
    assert torch.allclose(clip_bits(model, clips), alone, rtol=1e-12)


@torch.no_grad()
def test_pieces_differ_from_the_whole_only_by_what_they_cannot_hear_ahead():
    codes = torch.randint(0, 256, (2, 40, 2))
    for lookahead in (0, 2):
        model = tiny(factor=4, lookahead=lookahead)
        whole = model.log_likelihood(codes)
        first, cache = model.log_likelihood_from(codes[:, :20], model.initial_cache(2))
        second, _ = model.log_likelihood_from(codes[:, 20:], cache)
        same = torch.isclose(torch.cat([first, second], 1), whole, rtol=1e-10).all(0)
        near = 4 * (5 - lookahead) + 1  # the first sample of place 5 - F that hears beyond: s = 1
        assert bool(same[:near].all())
        assert bool(same[20:].all()) == (lookahead == 0)  # the cells carry on what they did not hear
        assert bool(same[:20].all()) == (lookahead == 0)


@torch.no_grad()
def test_a_piece_is_a_distribution_given_the_piece_before():
    model, sounds = tiny(factor=2, lookahead=1, levels=2), all_sounds(3)
    prompt = torch.tensor([[[0, 1], [1, 1]]]).expand(len(sounds), -1, -1)
    cache = model.prefill(prompt, model.initial_cache(len(sounds)))
    expected = 2 ** model.log_likelihood_from(sounds, cache)[0].sum(1)
    assert float(expected.sum()) == pytest.approx(1, abs=1e-12)
    drawn = model.generate(3, prompt=prompt[:1].expand(20_000, -1, -1), seed=2).flatten(1)
    observed = torch.bincount(drawn @ 2 ** torch.arange(6).flip(0), minlength=64) / 20_000
    assert (observed - expected).abs().max() < 5 * math.sqrt(0.25 / 20_000)


@given(st.floats(0.3, 2), st.floats(0.05, 1), st.integers(0, 1000))
@settings(max_examples=20)
def test_inverting_draws_from_the_same_distribution_as_sample(temperature, top_p, seed):
    n, logits = 4000, 2 * torch.randn(1, 6, generator=torch.Generator().manual_seed(seed))
    logits = logits.expand(n, 6)
    sampling = SamplingConfig(temperature, top_p)
    evenly = sampler_from_uniforms((torch.arange(n)[:, None] + 0.5) / n, sampling)(logits)
    drawn = sample_token(logits, sampling, torch.Generator().manual_seed(seed))
    one, other = (torch.bincount(codes, minlength=6) / n for codes in (evenly, drawn))
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


def test_it_trains_on_pieces_too():
    model = Subscale(SubscaleConfig(16, factor=4, lookahead=1, d_conditioning=8, layers=2))
    tones = CoarseFine().encode(0.5 * torch.sin(0.2 * torch.arange(4 * 62.0))).view(4, 62, 2)
    history = train(model, tones, TrainingConfig(40, 4, lr=0.01, tbptt_length=20), progress=False)
    assert history.loss[-1] < history.loss[0] - 2


def test_settings_and_requests_that_are_impossible_are_named():
    with as_a_reader():
        for name, value in (("factor", 0), ("lookahead", -1), ("d_conditioning", 0), ("layers", 0)):
            with pytest.raises(ValueError, match=f"{name} must be at least"):
                SubscaleConfig(**{name: value})
        with pytest.raises(ValueError, match=r"layers must be enough .* lookahead=64 .* got 6"):
            SubscaleConfig(layers=6)
        with pytest.raises(ValueError, match="d_hidden must be even"):
            Subscale(SubscaleConfig(d_hidden=7))
        model = tiny(factor=4)
        for way in (model.generate, model.generate_sequential):
            with pytest.raises(ValueError, match="length must be at least 1"):
                way(0)
            with pytest.raises(ValueError, match=r"cache must be of a length that factor=4 divides"):
                way(4, prompt=torch.zeros(1, 6, 2, dtype=torch.long))
            with pytest.raises(ValueError, match=r"prompt must lie in 0\.\.255"):
                way(4, prompt=torch.full((1, 8, 2), 256))
        with pytest.raises(ValueError, match="codes must have shape"):
            model.log_likelihood(torch.zeros(1, 6, dtype=torch.long))
