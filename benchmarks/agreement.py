"""How near a compiled loop stays to the model that it was made from: logits of the same codes, codes drawn
from the same seed, and a state that has run for minutes."""

import copy
import time

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from sashimi_lib.models import WaveRNN
from sashimi_lib.models.autoregressive import Autoregressive, shift_right
from sashimi_lib.models.blocks import State
from sashimi_lib.models.states import flatten_state
from sashimi_lib.models.trainable import Cache
from sashimi_lib.ssm.kernel_cache import cached_kernels
from sashimi_lib.streaming import compiled


class Given:
    """A `TokenSampler` that takes codes as they are given, and notes the logits that it was shown."""

    def __init__(self, codes: Tensor) -> None:
        self.codes = iter(codes.flatten(1).unbind(1))
        self.logits: list[Tensor] = []

    def __call__(self, logits: Tensor) -> Tensor:
        self.logits.append(logits)
        return next(self.codes)


@torch.no_grad()
def by_steps(model: Autoregressive, codes: Tensor, cache: Cache) -> Tensor:
    """The logits that the model's own step gives each code, sample by sample."""
    (code, state), sampler = cache, Given(codes)
    with parametrize.cached(), cached_kernels(model):  # what follows from weights alone is made once
        for _ in range(codes.shape[1]):
            code, state = model.sample_next(code, state, sampler)
    return torch.stack(sampler.logits, dim=1).unflatten(1, codes.shape[1:])


@torch.no_grad()
def at_once(model: Autoregressive, codes: Tensor, cache: Cache) -> Tensor:
    """The same by the parallel pass, for a WaveRNN or a model with one softmax."""
    before, state = cache
    heard = shift_right(codes, before)
    if not isinstance(model, WaveRNN):
        return model(heard, state)[0]
    h, _ = model(heard, codes[..., 0], state)
    return torch.stack([model.coarse_logits(h), model.fine_logits(h)], dim=-2)


def apart(actual: Tensor, expected: Tensor) -> dict[str, float]:
    """The norm of the difference over that of what was expected: of all samples, and of the worst."""
    difference, expected = (x.double().flatten(2).norm(dim=2) for x in (actual - expected, expected))
    return {
        "whole": float(difference.norm() / expected.norm()),
        "worst_sample": float((difference / expected).max()),
    }


def agreement(model: Autoregressive, forced: int, drawn: int, seed: int) -> dict[str, object]:
    """The compiled loop beside the model's own step, and either beside the parallel pass in float64, over
    ``teacher_forced_logits`` codes of its own; and how many of ``drawn`` samples are the same from the same seed."""
    engine, precise = compiled(model), copy.deepcopy(model).double()
    codes = engine.generate(forced, seed=seed)
    logits, _ = engine.teacher_forced_logits(codes, engine.initial_cache(1))
    steps = by_steps(model, codes, model.initial_cache(1))
    reference = at_once(precise, codes, precise.initial_cache(1))
    same = engine.generate(drawn, seed=seed) == model.generate(drawn, seed=seed)
    return {
        "compiled_against_steps": apart(logits, steps),
        "compiled_against_float64": apart(logits, reference),
        "steps_against_float64": apart(steps, reference),
        "equal_samples": int(same.reshape(drawn, -1).all(1).sum()),
    }


def largest_entry(state: State) -> float:
    """The largest absolute value in a state; how far a frame has come is none."""
    return max(float(x.abs().max()) for x in flatten_state(state) if x.is_floating_point())


def long_run(model: Autoregressive, minutes: int, second: int, seed: int) -> dict[str, object]:
    """Minutes of sixty ``second`` samples by the compiled loop: how large its state is after each second, and
    the last second once more, by the model's own step from the state before it."""
    engine, generator = compiled(model), torch.Generator().manual_seed(seed)
    cache, speeds, largest = engine.initial_cache(1), [], []
    for _ in range(minutes):
        tops, start = [], time.perf_counter()
        for _ in range(60):
            before = cache
            codes, cache = engine.generate_from(before, second, generator=generator)
            tops.append(largest_entry(cache[1]))
        speeds.append(60 * second / (time.perf_counter() - start))
        largest.append(max(tops))
    logits, _ = engine.teacher_forced_logits(codes, before)
    return {
        "samples": minutes * 60 * second,
        "samples_per_second": speeds,
        "largest_state_entry": largest,
        "last_second_against_steps": apart(logits, by_steps(model, codes, before)),
    }
