"""The contract of a model of codes: the same likelihood for whole sequences, chunks and single steps, and
engines that agree with the model."""

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
from tests.contract import (
    CHUNKS,
    LENGTH,
    TOLERANCE,
    assert_same,
    floats,
    gradients,
    trainable_parameters,
    weighted_sum,
)

Scored = tuple[Tensor, Any]  # log-likelihood in bits, and the cache after it


def random_model(
    make: Callable[[], DiscreteAudioModel], dtype: torch.dtype = torch.float64
) -> DiscreteAudioModel:
    """Make a model with weights large enough that its predictions depend on the context."""
    model = make().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def random_codes(model: DiscreteAudioModel, batch: int = 2) -> Tensor:
    """Return random codes of the model's quantizer."""
    two = (2,) if isinstance(model.quantizer, CoarseFine) else ()
    return torch.randint(model.quantizer.levels, (batch, LENGTH, *two))


class TeacherForcing:
    """A `TokenSampler` that returns given codes, and adds up their log-likelihood in bits."""

    def __init__(self, codes: Tensor, levels: int) -> None:
        self.codes, self.levels = codes.flatten(1).unbind(1) if codes.ndim > 1 else (codes,), levels
        self.bits = torch.zeros(len(codes), dtype=torch.float64)
        self.remaining = list(self.codes)

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the next code; or both as one value, where there is a logit for each pair."""
        code = self.remaining.pop(0)
        if logits.shape[-1] == self.levels**2:
            code = self.levels * code + self.remaining.pop(0)
        self.bits = self.bits + log2_prob(logits[:, None], code[:, None])[:, 0]
        return code


def by_steps(model: Autoregressive, codes: Tensor, cache: Any) -> Scored:
    """Score step by step, by `sample_next` with given codes."""
    (code, state), bits = cache, []
    for expected in codes.unbind(1):
        sampler = TeacherForcing(expected, model.quantizer.levels)
        code, state = model.sample_next(code, state, sampler)
        assert torch.equal(code, expected)
        bits.append(sampler.bits)
    return torch.stack(bits, dim=1), (code, state)


def by_chunks(model: DiscreteAudioModel, codes: Tensor, cache: Any, size: int) -> Scored:
    """Score chunk by chunk, each with the cache after the one before."""
    bits = []
    for chunk in codes.split(size, dim=1):
        of_chunk, cache = model.log_likelihood_from(chunk, cache)
        bits.append(of_chunk)
    return torch.cat(bits, dim=1), cache


def modes(model: DiscreteAudioModel) -> dict[str, Callable[[Tensor, Any], Scored]]:
    """Every mode of scoring codes from a cache."""
    unit = model.config.factor if isinstance(model, Subscale) else 1
    found = {
        f"chunks of {size}": lambda codes, cache, size=size: by_chunks(model, codes, cache, size)
        for size in (LENGTH, *(n * unit for n in CHUNKS))
    }
    if isinstance(model, Autoregressive):
        found["steps"] = lambda codes, cache: by_steps(model, codes, cache)
    return found


def assert_modes_agree(make: Callable[[], DiscreteAudioModel], dtype: torch.dtype) -> None:
    """All modes give the same log-likelihood, final cache, and gradients of both by all parameters."""
    model = random_model(make, dtype)
    codes, tolerance, expected = random_codes(model), TOLERANCE[dtype], None
    for name, run in modes(model).items():
        bits, cache = run(codes, model.initial_cache_for(codes))
        assert torch.equal(cache[0], codes[:, -1]), name
        found = (
            [bits, *floats(cache)],
            gradients(weighted_sum([bits, *floats(cache)]), trainable_parameters(model)),
        )
        expected = found if expected is None else expected
        for what, ours, theirs in zip(("bits and cache", "gradients"), found, expected, strict=True):
            assert_same(ours, theirs, tolerance, f"{name}: {what}")
    prefilled = model.prefill(codes, model.initial_cache_for(codes))
    assert_same(floats(prefilled), floats(cache), tolerance, "prefill: cache")
    one_chunk = model.log_likelihood_from(codes, model.initial_cache_for(codes))[0]
    ours, theirs = (
        [bits, *gradients(weighted_sum([bits]), trainable_parameters(model))]
        for bits in (model.log_likelihood(codes), one_chunk)
    )
    assert_same(ours, theirs, tolerance, "without a cache: bits and gradients")


@torch.no_grad()
def assert_receptive_field(
    make: Callable[[], DiscreteAudioModel], receptive_field: Callable[[int, int], range]
) -> None:
    """A code changes its own probability and those of later samples with it in their context; and no
    other."""
    model = random_model(make)
    codes = random_codes(model, 1)
    changed, now = codes.repeat(LENGTH, *[1] * (codes.ndim - 1)), torch.arange(LENGTH)
    changed[now, now] = (changed[now, now] + 1) % model.quantizer.levels  # one sample of each row
    cache = model.initial_cache_for(codes)
    plain = model.log_likelihood_from(codes, cache)[0]
    cache = model.initial_cache_for(
        codes.expand_as(changed)
    )  # the same conditioning for all rows of a vocoder
    difference = (model.log_likelihood_from(changed, cache)[0] - plain).abs()  # (changed sample, output)
    for t in range(LENGTH):
        assert (difference[:, t] > 1e-12).nonzero()[:, 0].tolist() == list(receptive_field(t, LENGTH)), (
            f"sample {t}"
        )


@torch.no_grad()
def assert_engine_likelihood(model: Autoregressive, engine: Compiled) -> None:
    """A teacher-forced engine gives the log-likelihood and the final state of the model."""
    codes, tolerance = random_codes(model), TOLERANCE[torch.float32]
    expected, end = by_steps(model.double(), codes, model.initial_cache(len(codes)))
    model.float()
    for size in (*CHUNKS, LENGTH):
        cache, logits = model.initial_cache(len(codes)), []
        for chunk in codes.split(size, dim=1):
            of_chunk, cache = engine.teacher_forced_logits(chunk, cache)
            logits.append(of_chunk)
        bits = log2_prob(torch.cat(logits, dim=1).flatten(1, -2), codes.flatten(1)).unflatten(1, (LENGTH, -1))
        found = [bits.sum(-1), *floats(cache)]
        assert_same(found, [expected, *floats(end)], tolerance, f"chunks of {size}: bits and cache")


@torch.no_grad()
def assert_engine_samples(model: Autoregressive, engine: Engine) -> None:
    """An engine samples the codes that the model samples, in chunks of any size, and ends in their state."""

    def sample(by: Autoregressive, size: int) -> tuple[Tensor, Any]:
        sampling, generator = SamplingConfig(0.9, 0.95), by.generator(3)
        cache, codes = by.initial_cache(2), []
        for start in range(0, LENGTH, size):
            chunk, cache = by.generate_from(cache, min(size, LENGTH - start), sampling, generator)
            codes.append(chunk)
        return torch.cat(codes, dim=1), cache

    expected_codes, _ = sample(model, LENGTH)
    expected = floats(model.prefill(expected_codes, model.initial_cache(2)))
    for size in (*CHUNKS, LENGTH):
        codes, cache = sample(engine, size)
        assert torch.equal(codes, expected_codes), f"chunks of {size}"
        assert_same(floats(cache), expected, TOLERANCE[expected[0].dtype], f"chunks of {size}: cache")
