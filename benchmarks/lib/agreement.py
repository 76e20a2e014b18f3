"""How closely a compiled sampling loop matches the model that it was built from: teacher-forced logits,
samples from the same seed, and a state after minutes of generation."""

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


class TeacherForcing:
    """A `TokenSampler` that returns given codes, and records the logits that it was called with."""

    def __init__(self, codes: Tensor) -> None:
        self.codes = iter(codes.flatten(1).unbind(1))
        self.logits: list[Tensor] = []

    def __call__(self, logits: Tensor) -> Tensor:
        self.logits.append(logits)
        return next(self.codes)


@torch.no_grad()
def stepwise_logits(model: Autoregressive, codes: Tensor, cache: Cache) -> Tensor:
    """Logits of each code, (batch, length, ..., levels), by the model's recurrent step."""
    (code, state), sampler = cache, TeacherForcing(codes)
    with parametrize.cached(), cached_kernels(model):  # what depends on parameters alone is computed once
        for _ in range(codes.shape[1]):
            code, state = model.sample_next(code, state, sampler)
    return torch.stack(sampler.logits, dim=1).unflatten(1, codes.shape[1:])


@torch.no_grad()
def parallel_logits(model: Autoregressive, codes: Tensor, cache: Cache) -> Tensor:
    """The same by the parallel forward pass, for a WaveRNN or a model with one softmax."""
    before, state = cache
    inputs = shift_right(codes, before)
    if not isinstance(model, WaveRNN):
        return model(inputs, state)[0]
    h, _ = model(inputs, codes[..., 0], state)
    return torch.stack([model.coarse_logits(h), model.fine_logits(h)], dim=-2)


def relative_error(actual: Tensor, expected: Tensor) -> dict[str, float]:
    """Norm of the difference over the norm of ``expected``: of all samples together, and of the worst one."""
    difference, expected = (x.double().flatten(2).norm(dim=2) for x in (actual - expected, expected))
    return {
        "whole": float(difference.norm() / expected.norm()),
        "worst_sample": float((difference / expected).max()),
    }


def agreement(model: Autoregressive, n_forced: int, n_sampled: int, seed: int) -> dict[str, object]:
    """Compare logits over ``n_forced`` codes: compiled loop against eager step, and each against the parallel
    pass in float64. Also count how many of ``n_sampled`` samples are equal from the same seed."""
    engine, precise = compiled(model), copy.deepcopy(model).double()
    codes = engine.generate(n_forced, seed=seed)
    logits, _ = engine.teacher_forced_logits(codes, engine.initial_cache(1))
    steps = stepwise_logits(model, codes, model.initial_cache(1))
    reference = parallel_logits(precise, codes, precise.initial_cache(1))
    same = engine.generate(n_sampled, seed=seed) == model.generate(n_sampled, seed=seed)
    return {
        "compiled_against_steps": relative_error(logits, steps),
        "compiled_against_float64": relative_error(logits, reference),
        "steps_against_float64": relative_error(steps, reference),
        "equal_samples": int(same.reshape(n_sampled, -1).all(1).sum()),
    }


def largest_entry(state: State) -> float:
    """The largest absolute value of the floating-point tensors in a state; counters are skipped."""
    return max(float(x.abs().max()) for x in flatten_state(state) if x.is_floating_point())


def long_run(model: Autoregressive, minutes: int, sample_rate: int, seed: int) -> dict[str, object]:
    """Generate for minutes with the compiled loop, and record the largest state entry of each second. The
    last second is then recomputed by the eager step, from the state before it, to compare logits."""
    engine, generator = compiled(model), torch.Generator().manual_seed(seed)
    cache, speeds, largest = engine.initial_cache(1), [], []
    for _ in range(minutes):
        maxima, start = [], time.perf_counter()
        for _ in range(60):
            before = cache
            codes, cache = engine.generate_from(before, sample_rate, generator=generator)
            maxima.append(largest_entry(cache[1]))
        speeds.append(60 * sample_rate / (time.perf_counter() - start))
        largest.append(max(maxima))
    logits, _ = engine.teacher_forced_logits(codes, before)
    return {
        "samples": minutes * 60 * sample_rate,
        "samples_per_second": speeds,
        "largest_state_entry": largest,
        "last_second_against_steps": relative_error(logits, stepwise_logits(model, codes, before)),
    }
