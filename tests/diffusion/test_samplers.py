"""Samplers against closed forms: the formulas of the papers, and a mixture of Gaussians."""

import math
from itertools import pairwise

import pytest
import torch

from sashimi_lib.diffusion.samplers import (
    ANCESTRAL,
    DDIM,
    DPM_SOLVER,
    DiffusionSampler,
    all_steps,
    log_snr_steps,
    posterior,
    renoise,
    repaint_steps,
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
from tests.diffusion.mixture import three_gaussians

PUBLISHED, CLEAR = LinearSchedule(), LogSNRSchedule(highest=10.0, lowest=-10.0)
SAMPLERS = {"ancestral": ANCESTRAL, "ddim": DDIM, "half": DiffusionSampler(eta=0.5), "dpm": DPM_SOLVER}


@pytest.fixture(autouse=True)
def _unchecked(shapes_unchecked):
    """Samplers make thousands of calls."""


def normal(n, d=2):
    return torch.randn(n, d, dtype=torch.float64)


def noise_network(x, step):
    """An arbitrary function of x and the step, in place of a trained network."""
    return torch.sin(3 * x + 0.01 * step) + 0.2 * x


def noise_denoiser(schedule):
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
    ours = sample(noise_denoiser(PUBLISHED), PUBLISHED, all_steps(PUBLISHED), start, ANCESTRAL, generator)
    assert torch.allclose(ours, x, rtol=1e-9, atol=1e-9)


def test_the_posterior_is_the_conditional_of_a_gaussian():
    """Of x_s given x_t and x_0, by the covariance of x_s and x_t given x_0."""
    log_snr_t, log_snr_s = torch.tensor([-1.0, 1.5]).double()
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(log_snr_t), alpha_sigma(log_snr_s)
    clean, noise = normal(4, 3), normal(4, 3)
    x_t = alpha_t * clean + sigma_t * noise
    covariance = alpha_t / alpha_s * sigma_s**2
    mean, std = posterior(clean, noise, log_snr_t, log_snr_s)
    assert torch.allclose(mean, alpha_s * clean + covariance / sigma_t**2 * (x_t - alpha_t * clean))
    assert float(std**2) == pytest.approx(float(sigma_s**2 - covariance**2 / sigma_t**2))


def test_renoising_gives_the_marginal_of_the_noisier_step():
    n = 200_000
    log_snr_s, log_snr_t = torch.tensor([1.0, -2.0]).double()
    x = add_noise(torch.full((n, 1), 0.7).double(), normal(n, 1), log_snr_s)
    x = renoise(x, normal(n, 1), log_snr_s, log_snr_t)
    alpha, sigma = alpha_sigma(log_snr_t)
    assert float(x.mean()) == pytest.approx(float(0.7 * alpha), abs=5 * float(sigma) / math.sqrt(n))
    assert float(x.var()) == pytest.approx(float(sigma**2), rel=5 * math.sqrt(2 / n))


@pytest.mark.parametrize("schedule", [CLEAR, CosineSchedule()], ids=["log-snr", "cosine"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_full_sampling_recovers_a_mixture(name, schedule):
    """Mean, covariance and the weight of every component, within five standard errors of exact sampling."""
    target, n = three_gaussians(), 4_000
    start = normal(n)
    x = sample(target.denoiser(schedule), schedule, all_steps(schedule), start, SAMPLERS[name])
    assert_recovered(target, x)


def standard_errors(target, x):
    """Return the errors of mean, covariance and weights of samples, in standard errors of exact sampling."""
    exact = target.sample(100_000)
    responsibilities = [target.posterior(points, 40.0)[0] for points in (x, exact)]
    centered = [points - target.mean for points in (x, exact)]
    products = [(a[:, :, None] * a[:, None]).flatten(1) for a in centered]
    expected = torch.cat([torch.zeros(2).double(), target.covariance.flatten(), target.weights])
    statistics = (torch.cat(parts, dim=1) for parts in zip(centered, products, responsibilities, strict=True))
    of_x, of_exact = statistics
    return (of_x.mean(0) - expected) / (of_exact.std(0) / math.sqrt(len(x)))


def assert_recovered(target, x):
    assert float(standard_errors(target, x).abs().max()) < 5


def test_the_recovery_check_accepts_exact_samples_and_rejects_shifted_or_scaled_ones():
    target = three_gaussians()
    x = target.sample(4_000)
    assert_recovered(target, x)
    assert float(standard_errors(target, x + 0.04).abs().max()) > 5
    assert float(standard_errors(target, 1.08 * (x - target.mean) + target.mean).abs().max()) > 5


def test_the_published_schedule_is_biased_because_its_last_step_is_not_pure_noise():
    """Sampling from pure noise misses the mixture; sampling from noisy samples of the mixture does not."""
    target, n = three_gaussians(), 20_000
    path, last = log_snr_steps(PUBLISHED, 40), torch.tensor(PUBLISHED.steps - 1)
    denoise, noise = target.denoiser(PUBLISHED), normal(n)
    published = sample(denoise, PUBLISHED, path, noise, DPM_SOLVER)
    noisy = add_noise(target.sample(n), noise, PUBLISHED.log_snr(last))
    assert float(standard_errors(target, published).abs().max()) > 6
    assert_recovered(target, sample(denoise, PUBLISHED, path, noisy, DPM_SOLVER))


@pytest.fixture(scope="module")
def limit():
    """Return the limit of many steps from a given noise, and a function that samples from the same noise."""
    torch.manual_seed(3)
    target, start = three_gaussians(), normal(300)

    def run(sampler, n, schedule=CLEAR):
        return sample(target.denoiser(schedule), schedule, log_snr_steps(schedule, n), start, sampler)

    return run(DPM_SOLVER, 1_200), run


def distance(a, b):
    """The median distance: rounding decides where the few points between two components end."""
    return float((a - b).norm(dim=1).median())


def test_ddim_and_dpm_solver_converge_to_the_same_limit_at_first_and_second_order(limit):
    end, run = limit
    ddim = [distance(run(DDIM, n), end) for n in (75, 150, 300)]
    dpm = [distance(run(DPM_SOLVER, n), end) for n in (75, 150, 300)]
    assert all(1.9 < a / b < 2.1 for a, b in pairwise(ddim)), ddim
    assert all(3.7 < a / b < 4.7 for a, b in pairwise(dpm)), dpm


def test_20_steps_of_dpm_solver_are_closer_to_the_limit_than_20_of_ddim(limit):
    end, run = limit
    assert distance(run(DPM_SOLVER, 20), end) < 0.3 * distance(run(DDIM, 20), end)


def test_few_steps_uniform_in_log_snr_are_better_than_uniform_steps_of_the_published_schedule():
    """For signals at the usual level of audio."""
    target = three_gaussians()
    target.means, target.covariances = 0.2 * target.means, 0.04 * target.covariances
    start, denoise = normal(300), target.denoiser(PUBLISHED)
    end = sample(denoise, PUBLISHED, log_snr_steps(PUBLISHED, 600), start, DPM_SOLVER)
    uniform = torch.linspace(199, 0, 10, dtype=torch.float64)
    for sampler in (DDIM, DPM_SOLVER):
        by_log_snr, by_step = (
            sample(denoise, PUBLISHED, path, start, sampler)
            for path in (log_snr_steps(PUBLISHED, 10), uniform)
        )
        assert distance(by_log_snr, end) < 0.3 * distance(by_step, end)


def test_samplers_with_eta_0_are_deterministic():
    x, denoise = normal(4), three_gaussians().denoiser(CLEAR)
    for sampler in (DDIM, DPM_SOLVER):
        a, b = (sample(denoise, CLEAR, log_snr_steps(CLEAR, 5), x, sampler) for _ in range(2))
        assert torch.equal(a, b)


@pytest.mark.parametrize("schedule", [PUBLISHED, CosineSchedule(), CLEAR])
def test_log_snr_steps_are_uniform_from_the_last_step_to_0(schedule):
    path = log_snr_steps(schedule, 13)
    assert (float(path[0]), float(path[-1])) == (schedule.steps - 1, 0)
    distances = schedule.log_snr(path).diff()
    assert torch.allclose(distances, distances[0].expand(12), rtol=1e-4)


@pytest.mark.parametrize("schedule", [PUBLISHED, LinearSchedule(50, beta_end=0.05)])
def test_the_six_steps_have_the_noise_levels_of_diffwave(schedule):
    cumulative = [0.375786, 0.751572, 0.939466, 0.988911, 0.998900, 0.9999]
    levels = schedule.log_snr(six_steps(schedule))
    assert torch.allclose(levels.sigmoid(), torch.tensor(cumulative).double(), rtol=0, atol=1e-6)
    distances = levels.diff()
    assert 1.6 < float(distances.min()) < float(distances.max()) < 2.41


def test_the_six_steps_are_aligned_on_the_training_grid_as_diffwave_aligns_them():
    """By linear interpolation of alpha between whole steps."""
    trained = (1 - torch.linspace(1e-4, 0.02, 200, dtype=torch.float64)).cumprod(0).sqrt().tolist()
    beta = torch.tensor([1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5], dtype=torch.float64)
    aligned = []
    for alpha in (1 - beta).cumprod(0).sqrt().tolist():
        t = next(t for t in range(199) if trained[t + 1] <= alpha <= trained[t] + 1e-12)
        aligned.append(t + (trained[t] - alpha) / (trained[t] - trained[t + 1]))
    assert six_steps(PUBLISHED).flip(0).tolist() == pytest.approx(aligned, abs=1e-6)


def test_steps_with_resampling_sample_the_same_distribution():
    target, schedule = three_gaussians(), LogSNRSchedule(60, highest=10.0, lowest=-10.0)
    path = repaint_steps(all_steps(schedule), 3)
    assert len(path) == 3 * 59 + (3 - 1) * 59 + 1
    steps_down = int((path.diff() < 0).sum())
    assert steps_down == 3 * 59
    assert_recovered(target, sample(target.denoiser(schedule), schedule, path, normal(3_000), ANCESTRAL))


def test_the_constraint_is_applied_before_every_call_of_the_denoiser():
    calls = []

    def denoise(x, step):
        calls.append((step, float(x[0, 0])))
        return x, torch.zeros_like(x)

    schedule = LogSNRSchedule(4)
    sample(denoise, schedule, all_steps(schedule), normal(1), DDIM, None, lambda x, step: 0 * x + step)
    assert calls == [(3, 3), (2, 2), (1, 1), (0, 0)]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: DiffusionSampler(eta=-0.1), "eta must lie in"),
        (lambda: DiffusionSampler(order=3), "order must be 1 or 2, got 3"),
        (lambda: log_snr_steps(CLEAR, 1), "n must be at least 2 steps, got 1"),
        (lambda: repaint_steps(all_steps(CLEAR), 0), "resample must be at least 1, got 0"),
        (lambda: six_steps(CosineSchedule()), "log_snr must lie in the schedule's range"),
        (lambda: sample(None, CLEAR, torch.tensor([3.0, 3.0]), normal(1)), "no two in a row the same"),
        (lambda: sample(None, CLEAR, torch.tensor([]), normal(1)), "steps must be at least one"),
        (lambda: sample(None, CLEAR, torch.tensor([300.0, 3.0]), normal(1)), r"step must lie in 0\.\.199"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
