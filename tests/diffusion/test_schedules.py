"""Noise schedules: the published values, and the properties common to all schedules."""

import math

import pytest
import torch

from sashimi_lib.diffusion.schedules import (
    CosineSchedule,
    LinearSchedule,
    LogSNRSchedule,
    add_noise,
    alpha_sigma,
    step_at_log_snr,
)
from tests.awkward import without_shape_checks

VOCODER = LinearSchedule(50, beta_end=0.05)
SCHEDULES = [
    LinearSchedule(),
    VOCODER,
    CosineSchedule(),
    LogSNRSchedule(),
    LinearSchedule(2),
    CosineSchedule(1_000),
]


def alpha_squared(schedule, step):
    return float(schedule.log_snr(torch.tensor(step)).sigmoid())


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (LinearSchedule(), 0, 0.9999),
        (LinearSchedule(), 99, 0.602480),
        (LinearSchedule(), 199, 0.132183),
        (VOCODER, 49, 0.279673),
    ],
)
def test_the_published_schedule_has_the_published_values(schedule, step, expected):
    assert alpha_squared(schedule, step) == pytest.approx(expected, abs=5e-7)


def test_alpha_of_the_linear_schedule_is_interpolated_linearly_between_whole_steps():
    alphas = [math.sqrt(alpha_squared(LinearSchedule(), step)) for step in (7.0, 7.25, 8.0)]
    assert alphas[1] == pytest.approx(0.75 * alphas[0] + 0.25 * alphas[2], rel=1e-12)


def test_the_cosine_schedule_is_a_cosine_with_its_last_beta_clipped():
    schedule, s = CosineSchedule(), 0.008
    for step in (0, 50, 198):
        f = [math.cos((t / 200 + s) / (1 + s) * math.pi / 2) ** 2 for t in (step + 1, 0)]
        assert alpha_squared(schedule, step) == pytest.approx(f[0] / f[1], rel=1e-9)
    last, before = (alpha_squared(schedule, step) for step in (199, 198))
    assert last == pytest.approx(0.001 * before, rel=1e-9)


def test_the_log_snr_schedule_is_linear_between_its_ends():
    schedule = LogSNRSchedule(11, highest=4.0, lowest=-6.0)
    assert torch.equal(schedule.log_snr(torch.arange(11)), torch.arange(4.0, -7.0, -1.0).double())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_every_schedule_decreases_strictly_at_fractional_steps_too(schedule):
    levels = schedule.log_snr(torch.linspace(0, schedule.steps - 1, 1_777).double())
    assert levels.dtype == torch.float64
    assert bool(levels.isfinite().all())
    assert bool((levels.diff() < 0).all())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_step_at_log_snr_is_the_inverse_of_log_snr(schedule):
    steps = torch.cat([torch.arange(schedule.steps), torch.rand(50).double() * (schedule.steps - 1)])
    assert torch.allclose(
        step_at_log_snr(schedule, schedule.log_snr(steps)), steps.double(), rtol=0, atol=1e-6
    )


def test_alpha_and_sigma_preserve_the_variance():
    alpha, sigma = alpha_sigma(torch.tensor([-30.0, 0.0, 3.0, 30.0]).double())
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(4).double(), rtol=1e-15)
    assert torch.allclose((alpha / sigma).log() * 2, torch.tensor([-30.0, 0.0, 3.0, 30.0]).double())


def test_add_noise_takes_one_log_snr_or_one_per_sequence():
    x, noise = torch.randn(3, 5), torch.randn(3, 5)
    levels = torch.tensor([4.0, 0.0, -4.0])
    each = add_noise(x, noise, levels)
    for i, level in enumerate(levels):
        assert torch.equal(each[i], add_noise(x, noise, level)[i])
        assert torch.allclose(each[i], level.sigmoid().sqrt() * x[i] + (-level).sigmoid().sqrt() * noise[i])


@pytest.mark.parametrize("step", [-0.01, 199.01, math.nan, math.inf])
def test_steps_outside_the_schedule_are_named(step):
    with without_shape_checks(), pytest.raises(ValueError, match=r"step must lie in 0\.\.199"):
        LinearSchedule().log_snr(torch.tensor([3.0, step]))


@pytest.mark.parametrize("level", [9.3, -1.9, math.nan])
def test_log_snrs_outside_the_schedule_are_named(level):
    with pytest.raises(ValueError, match="log_snr must lie in the schedule's range"):
        step_at_log_snr(LinearSchedule(), torch.tensor(level))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: LinearSchedule(1), "steps must be at least 2, got 1"),
        (lambda: LinearSchedule(beta_start=0.0), "beta_start"),
        (lambda: LinearSchedule(beta_end=1.0), "beta_end"),
        (lambda: LinearSchedule(beta_start=0.1, beta_end=0.05), "beta_start <= beta_end"),
        (lambda: CosineSchedule(offset=-0.1), "offset must lie in"),
        (lambda: LogSNRSchedule(highest=-9.0), "lowest must be below highest"),
        (lambda: LogSNRSchedule(highest=math.inf), "both finite"),
    ],
)
def test_bad_settings_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
