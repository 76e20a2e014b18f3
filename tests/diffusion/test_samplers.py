"""Samplers against what is known in closed form: the papers' formulas, and a mixture of Gaussians."""

import math
from itertools import pairwise

import pytest
import torch

from sashimi_lib.diffusion.samplers import (
    ANCESTRAL,
    DDIM,
    DPM_SOLVER,
    DiffusionSampler,
    every_step,
    grid,
    more_noise,
    posterior,
    resampled,
    sample,
    six_steps,
)
from sashimi_lib.diffusion.schedules import (
    CosineSchedule,
    LinearSchedule,
    LogSNRSchedule,
    add_noise,
    alpha_sigma,
)
from tests.diffusion.mixture import three_lumps

PUBLISHED, CLEAR = LinearSchedule(), LogSNRSchedule(highest=10.0, lowest=-10.0)
SAMPLERS = {"ancestral": ANCESTRAL, "ddim": DDIM, "half": DiffusionSampler(eta=0.5), "dpm": DPM_SOLVER}


@pytest.fixture(autouse=True)
def _unchecked(shapes_unchecked):
    """Samplers make thousands of calls."""


def normal(n, d=2):
    return torch.randn(n, d, dtype=torch.float64)


def noise_network(x, step):
    """Some function of a noisy sound and a step, in place of a trained one."""
    return torch.sin(3 * x + 0.01 * step) + 0.2 * x


def told_noise(schedule):
    def denoise(x, step):
        alpha, sigma = alpha_sigma(schedule.log_snr(torch.tensor(step)))
        noise = noise_network(x, step)
        return (x - sigma * noise) / alpha, noise

    return denoise


def test_ancestral_sampling_is_the_published_formula():
    beta = torch.linspace(1e-4, 0.02, 200, dtype=torch.float64)
    alpha, alpha_bar = 1 - beta, (1 - beta).cumprod(0)
    start, generator = normal(3, 7), torch.Generator().manual_seed(5)
    x = start
    for t in reversed(range(200)):
        x = (x - (1 - alpha[t]) / (1 - alpha_bar[t]).sqrt() * noise_network(x, float(t))) / alpha[t].sqrt()
        if t > 0:
            sigma = (beta[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])).sqrt()
            x = x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    generator.manual_seed(5)
    ours = sample(told_noise(PUBLISHED), PUBLISHED, every_step(PUBLISHED), start, ANCESTRAL, generator)
    assert torch.allclose(ours, x, rtol=1e-9, atol=1e-9)


def test_the_posterior_is_the_conditional_of_a_gaussian():
    """Of (x_there, x_here) given x_0, by the covariance of the two: noise there, and more on top of it."""
    here, there = torch.tensor([-1.0, 1.5]).double()
    (a, s), (a_, s_) = alpha_sigma(here), alpha_sigma(there)
    clean, noise = normal(4, 3), normal(4, 3)
    x = a * clean + s * noise
    between = a / a_ * s_**2  # the covariance of the two levels
    mean, std = posterior(clean, noise, here, there)
    assert torch.allclose(mean, a_ * clean + between / s**2 * (x - a * clean))
    assert float(std**2) == pytest.approx(float(s_**2 - between**2 / s**2))


def test_noise_on_top_of_noise_is_noise():
    n = 200_000
    here, there = torch.tensor([1.0, -2.0]).double()
    x = add_noise(torch.full((n, 1), 0.7).double(), normal(n, 1), here)
    x = more_noise(x, normal(n, 1), here, there)
    alpha, sigma = alpha_sigma(there)
    assert float(x.mean()) == pytest.approx(float(0.7 * alpha), abs=5 * float(sigma) / math.sqrt(n))
    assert float(x.var()) == pytest.approx(float(sigma**2), rel=5 * math.sqrt(2 / n))


@pytest.mark.parametrize("schedule", [CLEAR, CosineSchedule()], ids=["log-snr", "cosine"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_full_sampling_recovers_a_mixture(name, schedule):
    """Mean, covariance and the weight of every lump, within five standard errors of as many true draws."""
    target, n = three_lumps(), 4_000
    start = normal(n)
    x = sample(target.denoiser(schedule), schedule, every_step(schedule), start, SAMPLERS[name])
    assert_recovered(target, x)


def standard_errors(target, x):
    """How far off mean, covariance and weights of draws are, in standard errors of as many true ones."""
    true = target.draw(100_000)
    shares = [target.shares(points, 40.0)[0] for points in (x, true)]
    apart = [points - target.mean for points in (x, true)]
    products = [(a[:, :, None] * a[:, None]).flatten(1) for a in apart]
    expected = torch.cat([torch.zeros(2).double(), target.covariance.flatten(), target.weights])
    ours, truly = (torch.cat(parts, dim=1) for parts in zip(apart, products, shares, strict=True))
    return (ours.mean(0) - expected) / (truly.std(0) / math.sqrt(len(x)))


def assert_recovered(target, x):
    assert float(standard_errors(target, x).abs().max()) < 5


def test_true_draws_are_recovered_and_shifted_ones_are_not():
    """The check itself."""
    target = three_lumps()
    x = target.draw(4_000)
    assert_recovered(target, x)
    assert float(standard_errors(target, x + 0.04).abs().max()) > 5
    assert float(standard_errors(target, 1.08 * (x - target.mean) + target.mean).abs().max()) > 5


def test_the_published_schedule_is_biased_for_it_does_not_end_in_noise():
    """Started from noise alone it misses the mixture; started from noisy draws of the mixture it does not."""
    target, n = three_lumps(), 20_000
    path, last = grid(PUBLISHED, 40), torch.tensor(PUBLISHED.steps - 1)
    denoise, noise = target.denoiser(PUBLISHED), normal(n)
    published = sample(denoise, PUBLISHED, path, noise, DPM_SOLVER)
    fair = add_noise(target.draw(n), noise, PUBLISHED.log_snr(last))
    assert float(standard_errors(target, published).abs().max()) > 6
    assert_recovered(target, sample(denoise, PUBLISHED, path, fair, DPM_SOLVER))


@pytest.fixture(scope="module")
def limit():
    """The deterministic flow from some noise, and a function that samples from the same noise."""
    torch.manual_seed(3)
    target, start = three_lumps(), normal(300)

    def run(sampler, n, schedule=CLEAR):
        return sample(target.denoiser(schedule), schedule, grid(schedule, n), start, sampler)

    return run(DPM_SOLVER, 1_200), run


def distance(a, b):
    """The median one: of a few points between two lumps, the last bit decides where they go."""
    return float((a - b).norm(dim=1).median())


def test_ddim_and_the_solver_go_to_the_same_limit_each_at_its_order(limit):
    end, run = limit
    ddim = [distance(run(DDIM, n), end) for n in (75, 150, 300)]
    dpm = [distance(run(DPM_SOLVER, n), end) for n in (75, 150, 300)]
    assert all(1.9 < a / b < 2.1 for a, b in pairwise(ddim)), ddim
    assert all(3.7 < a / b < 4.7 for a, b in pairwise(dpm)), dpm


def test_few_steps_of_the_solver_are_worth_many_of_ddim(limit):
    end, run = limit
    assert distance(run(DPM_SOLVER, 20), end) < 0.3 * distance(run(DDIM, 20), end)


def test_a_grid_even_in_log_snr_is_better_for_few_steps_of_the_published_schedule():
    """Than one that is even in steps, for sounds as quiet as sounds are."""
    target = three_lumps()
    target.means, target.covariances = 0.2 * target.means, 0.04 * target.covariances
    start, denoise = normal(300), target.denoiser(PUBLISHED)
    end = sample(denoise, PUBLISHED, grid(PUBLISHED, 600), start, DPM_SOLVER)
    even = torch.linspace(199, 0, 10, dtype=torch.float64)
    for sampler in (DDIM, DPM_SOLVER):
        ours, theirs = (
            sample(denoise, PUBLISHED, path, start, sampler) for path in (grid(PUBLISHED, 10), even)
        )
        assert distance(ours, end) < 0.3 * distance(theirs, end)


def test_no_new_noise_means_no_chance():
    x, denoise = normal(4), three_lumps().denoiser(CLEAR)
    for sampler in (DDIM, DPM_SOLVER):
        a, b = (sample(denoise, CLEAR, grid(CLEAR, 5), x, sampler) for _ in range(2))
        assert torch.equal(a, b)


@pytest.mark.parametrize("schedule", [PUBLISHED, CosineSchedule(), CLEAR])
def test_the_grid_goes_from_end_to_end_at_equal_distances(schedule):
    path = grid(schedule, 13)
    assert (float(path[0]), float(path[-1])) == (schedule.steps - 1, 0)
    distances = schedule.log_snr(path).diff()
    assert torch.allclose(distances, distances[0].expand(12), rtol=1e-4)


@pytest.mark.parametrize("schedule", [PUBLISHED, LinearSchedule(50, beta_end=0.05)])
def test_the_six_steps_are_as_noisy_as_diffwaves(schedule):
    cumulative = [0.375786, 0.751572, 0.939466, 0.988911, 0.998900, 0.9999]
    levels = schedule.log_snr(six_steps(schedule))
    assert torch.allclose(levels.sigmoid(), torch.tensor(cumulative).double(), rtol=0, atol=1e-6)
    distances = levels.diff()
    assert 1.6 < float(distances.min()) < float(distances.max()) < 2.41


def test_the_six_steps_are_aligned_on_the_training_grid_as_diffwave_aligns_them():
    """By the share of the way in alpha from the whole step before to the one after."""
    trained = (1 - torch.linspace(1e-4, 0.02, 200, dtype=torch.float64)).cumprod(0).sqrt().tolist()
    beta = torch.tensor([1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5], dtype=torch.float64)
    aligned = []
    for alpha in (1 - beta).cumprod(0).sqrt().tolist():
        t = next(t for t in range(199) if trained[t + 1] <= alpha <= trained[t] + 1e-12)
        aligned.append(t + (trained[t] - alpha) / (trained[t] - trained[t + 1]))
    assert six_steps(PUBLISHED).flip(0).tolist() == pytest.approx(aligned, abs=1e-6)


def test_a_path_that_goes_back_up_samples_the_same_distribution():
    target, schedule = three_lumps(), LogSNRSchedule(60, highest=10.0, lowest=-10.0)
    path = resampled(every_step(schedule), 3)
    assert len(path) == 3 * 59 + (3 - 1) * 59 + 1
    steps_down = int((path.diff() < 0).sum())
    assert steps_down == 3 * 59
    assert_recovered(target, sample(target.denoiser(schedule), schedule, path, normal(3_000), ANCESTRAL))


def test_what_is_constrained_is_what_is_denoised_at_every_step_and_the_last():
    seen = []

    def denoise(x, step):
        seen.append((step, float(x[0, 0])))
        return x, torch.zeros_like(x)

    schedule = LogSNRSchedule(4)
    sample(denoise, schedule, every_step(schedule), normal(1), DDIM, None, lambda x, step: 0 * x + step)
    assert seen == [(3, 3), (2, 2), (1, 1), (0, 0)]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: DiffusionSampler(eta=-0.1), "eta must lie in"),
        (lambda: DiffusionSampler(order=3), "order must be 1 or 2, got 3"),
        (lambda: grid(CLEAR, 1), "n must be at least 2 steps, got 1"),
        (lambda: resampled(every_step(CLEAR), 0), "times must be at least 1, got 0"),
        (lambda: six_steps(CosineSchedule()), "log_snr must lie in the schedule's range"),
        (lambda: sample(None, CLEAR, torch.tensor([3.0, 3.0]), normal(1)), "no two in a row the same"),
        (lambda: sample(None, CLEAR, torch.tensor([]), normal(1)), "steps must be at least one"),
        (lambda: sample(None, CLEAR, torch.tensor([300.0, 3.0]), normal(1)), r"step must lie in 0\.\.199"),
    ],
)
def test_what_is_impossible_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
