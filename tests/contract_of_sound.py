"""The contract of a layer, as a model of codes keeps it: whole sequences, pieces and single draws are scored
alike, and so do the engines that draw from it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sashimi_lib.audio.quantizers import CoarseFine
from sashimi_lib.models.autoregressive import Autoregressive, DiscreteAudioModel, log2_prob
from sashimi_lib.models.sampling import SamplingConfig
from sashimi_lib.models.subscale import Subscale
from sashimi_lib.streaming.base import Engine
from sashimi_lib.streaming.engine import Compiled
from tests.contract import FRAMES, LENGTH, TOLERANCE, assert_same, floats, gradients, some_sum, trained

Scored = tuple[Tensor, Any]  # bits, and the past after them


def a_model(make: Callable[[], DiscreteAudioModel], dtype: torch.dtype = torch.float64) -> DiscreteAudioModel:
    """With weights large enough that what it says depends on what it heard."""
    model = make().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def some_codes(model: DiscreteAudioModel, batch: int = 2) -> Tensor:
    """Any codes of its quantizer."""
    two = (2,) if isinstance(model.quantizer, CoarseFine) else ()
    return torch.randint(model.quantizer.levels, (batch, LENGTH, *two))


class Given:
    """A `TokenSampler` that takes what is given, and notes the bits that it takes."""

    def __init__(self, codes: Tensor, levels: int) -> None:
        self.codes, self.levels = codes.flatten(1).unbind(1) if codes.ndim > 1 else (codes,), levels
        self.bits = torch.zeros(len(codes), dtype=torch.float64)
        self.waiting = list(self.codes)

    def __call__(self, logits: Tensor) -> Tensor:
        """The next code; or both as one, where there is a logit for each pair."""
        code = self.waiting.pop(0)
        if logits.shape[-1] == self.levels**2:
            code = self.levels * code + self.waiting.pop(0)
        self.bits = self.bits + log2_prob(logits[:, None], code[:, None])[:, 0]
        return code


def by_draws(model: Autoregressive, codes: Tensor, cache: Any) -> Scored:
    """Sample by sample, by `draw` with its codes given."""
    (code, state), bits = cache, []
    for given in codes.unbind(1):
        sampler = Given(given, model.quantizer.levels)
        code, state = model.sample_next(code, state, sampler)
        assert torch.equal(code, given)
        bits.append(sampler.bits)
    return torch.stack(bits, dim=1), (code, state)


def by_pieces(model: DiscreteAudioModel, codes: Tensor, cache: Any, size: int) -> Scored:
    """Piece by piece, each given the past after the one before."""
    bits = []
    for piece in codes.split(size, dim=1):
        these, cache = model.log_likelihood_from(piece, cache)
        bits.append(these)
    return torch.cat(bits, dim=1), cache


def ways(model: DiscreteAudioModel) -> dict[str, Callable[[Tensor, Any], Scored]]:
    """Every way to score codes from a past on."""
    unit = model.config.factor if isinstance(model, Subscale) else 1
    found = {
        f"pieces of {size}": lambda codes, cache, size=size: by_pieces(model, codes, cache, size)
        for size in (LENGTH, *(n * unit for n in FRAMES))
    }
    if isinstance(model, Autoregressive):
        found["draws"] = lambda codes, cache: by_draws(model, codes, cache)
    return found


def assert_ways_agree(make: Callable[[], DiscreteAudioModel], dtype: torch.dtype) -> None:
    """Bits, the past after them, and the gradients of both by all parameters."""
    model = a_model(make, dtype)
    codes, tolerance, expected = some_codes(model), TOLERANCE[dtype], None
    for name, run in ways(model).items():
        bits, cache = run(codes, model.initial_cache_for(codes))
        assert torch.equal(cache[0], codes[:, -1]), name
        found = [bits, *floats(cache)], gradients(some_sum([bits, *floats(cache)]), trained(model))
        expected = found if expected is None else expected
        for what, ours, theirs in zip(("bits and past", "gradients"), found, expected, strict=True):
            assert_same(ours, theirs, tolerance, f"{name}: {what}")
    absorbed = model.prefill(codes, model.initial_cache_for(codes))
    assert_same(floats(absorbed), floats(cache), tolerance, "absorb: past")
    one_piece = model.log_likelihood_from(codes, model.initial_cache_for(codes))[0]
    ours, theirs = (
        [bits, *gradients(some_sum([bits]), trained(model))]
        for bits in (model.log_likelihood(codes), one_piece)
    )
    assert_same(ours, theirs, tolerance, "without a past: bits and gradients")


@torch.no_grad()
def assert_reach(make: Callable[[], DiscreteAudioModel], reach: Callable[[int, int], range]) -> None:
    """A code changes its own probability, and that of those after it that hear it; and no other."""
    model = a_model(make)
    codes = some_codes(model, 1)
    changed, now = codes.repeat(LENGTH, *[1] * (codes.ndim - 1)), torch.arange(LENGTH)
    changed[now, now] = (changed[now, now] + 1) % model.quantizer.levels  # one sample of each row
    cache = model.initial_cache_for(codes)
    plain = model.log_likelihood_from(codes, cache)[0]
    told = model.initial_cache_for(codes.expand_as(changed))  # of a vocoder: the same for all
    gap = (model.log_likelihood_from(changed, told)[0] - plain).abs()  # (whom, who)
    for t in range(LENGTH):
        assert (gap[:, t] > 1e-12).nonzero()[:, 0].tolist() == list(reach(t, LENGTH)), f"sample {t}"


@torch.no_grad()
def assert_engine_scores(model: Autoregressive, engine: Compiled) -> None:
    """An engine that takes codes gives each the bits that the model gives it, and ends in the same state."""
    codes, tolerance = some_codes(model), TOLERANCE[torch.float32]
    expected, end = by_draws(model.double(), codes, model.initial_cache(len(codes)))
    model.float()
    for size in (*FRAMES, LENGTH):
        cache, logits = model.initial_cache(len(codes)), []
        for piece in codes.split(size, dim=1):
            these, cache = engine.teacher_forced_logits(piece, cache)
            logits.append(these)
        of_each = log2_prob(torch.cat(logits, dim=1).flatten(1, -2), codes.flatten(1)).unflatten(
            1, (LENGTH, -1)
        )
        found = [of_each.sum(-1), *floats(cache)]
        assert_same(found, [expected, *floats(end)], tolerance, f"pieces of {size}: bits and past")


@torch.no_grad()
def assert_engine_draws(model: Autoregressive, engine: Engine) -> None:
    """An engine draws what the model draws, in pieces of any size, and ends in the state of what it drew."""

    def drawn(by: Autoregressive, size: int) -> tuple[Tensor, Any]:
        sampling, generator = SamplingConfig(0.9, 0.95), by.generator(3)
        cache, codes = by.initial_cache(2), []
        for start in range(0, LENGTH, size):
            these, cache = by.generate_from(cache, min(size, LENGTH - start), sampling, generator)
            codes.append(these)
        return torch.cat(codes, dim=1), cache

    wanted, _ = drawn(model, LENGTH)
    expected = floats(model.prefill(wanted, model.initial_cache(2)))
    for size in (*FRAMES, LENGTH):
        codes, cache = drawn(engine, size)
        assert torch.equal(codes, wanted), f"pieces of {size}"
        assert_same(floats(cache), expected, TOLERANCE[expected[0].dtype], f"pieces of {size}: past")
