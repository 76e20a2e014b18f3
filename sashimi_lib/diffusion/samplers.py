"""Diffusion samplers: from noise to a clean signal with any denoiser (chapter 9).

Every sampler visits a descending sequence of steps and repeats two operations: estimate the clean signal,
then move to the next noise level (`DiffusionSampler.step`) by ``x = alpha clean + sigma noise``. Samplers
differ in the share of that noise which is new, and in whether the clean estimate is extrapolated linearly
from the previous one. The result is the clean estimate at the last step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from sashimi_lib.diffusion.schedules import Schedule, alpha_sigma, step_at_log_snr
from sashimi_lib.ssm.precision import cudnn_as_matmul

Denoise = Callable[[Tensor, float], tuple[Tensor, Tensor]]  # x, step -> estimates of clean x and noise
Constrain = Callable[[Tensor, float], Tensor]  # x, step -> x with its constraints at that step imposed
Steps = int | Float[Tensor, " n"] | None  # see `resolve_steps`

DIFFWAVE_BETAS = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5)


@dataclass(frozen=True)
class DiffusionSampler:
    """A family of samplers with a stochasticity ``eta`` and an ``order``.

    ``eta`` runs from 0, deterministic, to 1, the variance of the forward process. ``order`` 1 keeps the clean
    estimate constant from one step to the next; 2 extrapolates it linearly in log-SNR.

    `ANCESTRAL`, `DDIM` and `DPM_SOLVER` are the samplers of the papers; settings in between are valid too. To
    add another family of samplers, override `step`.

    Chapter: 9. Raises ValueError for ``eta`` outside [0, 1] and for another ``order``.
    """

    eta: float = 0.0
    order: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {self.order}")

    def step(
        self,
        clean: Float[Tensor, "batch length"],
        noise: Float[Tensor, "batch length"],
        log_snr_t: Float[Tensor, ""],
        log_snr_s: Float[Tensor, ""],
        previous: tuple[Tensor, Tensor] | None,
        new_noise: Callable[[], Tensor],
    ) -> Float[Tensor, "batch length"]:
        """Return x at the higher ``log_snr_s``, given estimates of the clean x and of the noise at
        ``log_snr_t``.

        ``previous`` is the previous clean estimate and its log-SNR, or None if there is none; ``new_noise()``
        samples Gaussian noise.
        """
        if self.order == 2 and previous is not None:
            clean, noise = extrapolate(clean, noise, log_snr_t, log_snr_s, *previous)
        x, std = posterior(clean, noise, log_snr_t, log_snr_s, self.eta)
        return x + std * new_noise() if self.eta > 0 else x


ANCESTRAL = DiffusionSampler(eta=1.0)  # DDPM (Ho et al., 2020), DiffWave, SaShiMi: for many steps
DDIM = DiffusionSampler()  # Song et al. (2021): deterministic given the initial noise
DPM_SOLVER = DiffusionSampler(order=2)  # DPM-Solver++ 2M (Lu et al., 2022): the limit of DDIM in fewer steps


def all_steps(schedule: Schedule) -> Float[Tensor, " n"]:
    """Return all whole steps of a schedule in descending order, as the papers use them.

    >>> from sashimi_lib.diffusion.schedules import LinearSchedule
    >>> all_steps(LinearSchedule(3))
    tensor([2., 1., 0.], dtype=torch.float64)

    Chapter: 9.
    """
    return torch.arange(schedule.steps - 1, -1, -1, dtype=torch.float64)


def log_snr_steps(schedule: Schedule, n: int) -> Float[Tensor, " n"]:
    """Return ``n`` steps from the last one of a schedule to 0, uniformly spaced in log-SNR.

    Each then removes the same share of the remaining noise. A few of the linear schedule's whole steps,
    uniformly spaced, would leave most of the distance to the last one: of 11.1 in log-SNR, 6.8 with six
    steps. On mixtures of Gaussians, whose optimal denoiser is known, ten steps of the second-order solver
    come closer to its limit with this spacing, for the linear and the cosine schedule; ten steps of DDIM do
    so at the usual level of audio. DiffWave's six steps, which were found empirically, lie 1.6 to 2.4 apart
    in log-SNR.

    >>> from sashimi_lib.diffusion.schedules import LogSNRSchedule
    >>> log_snr_steps(LogSNRSchedule(101), 5)
    tensor([100.,  75.,  50.,  25.,   0.], dtype=torch.float64)

    Chapter: 9. Raises ValueError for fewer than two.
    """
    if n < 2:
        raise ValueError(f"n must be at least 2 steps, got {n}")
    ends = schedule.log_snr(torch.tensor([schedule.steps - 1, 0]))
    log_snr = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, n, dtype=torch.float64))
    return step_at_log_snr(schedule, log_snr)


def resolve_steps(schedule: Schedule, steps: Steps) -> Float[Tensor, " n"]:
    """Return the steps of a sampler: a number of `log_snr_steps`, given steps, or `all_steps` for None.

    Chapter: 9. Raises ValueError for a number below two.
    """
    if steps is None:
        return all_steps(schedule)
    return log_snr_steps(schedule, steps) if isinstance(steps, int) else steps


def six_steps(schedule: Schedule) -> Float[Tensor, " n"]:
    """Return the steps of a schedule with the noise levels of DiffWave's fast sampling.

    Its betas are 0.0001, 0.001, 0.01, 0.05, 0.2 and 0.5.

    >>> from sashimi_lib.diffusion.schedules import LinearSchedule
    >>> six_steps(LinearSchedule())
    tensor([138.0839,  73.9825,  33.8203,  13.4303,   3.2007,   0.0000], dtype=torch.float64)

    The first step still contains much of the signal, so they are for vocoders, whose spectrogram determines
    that part. Chapter: 9. DiffWave (Kong et al., 2021), fast sampling. Raises ValueError for a schedule that
    is not nearly clean at step 0.
    """
    alpha_squared = (1 - torch.tensor(DIFFWAVE_BETAS, dtype=torch.float64)).cumprod(0)
    return step_at_log_snr(schedule, alpha_squared.logit()).flip(0)


def repaint_steps(steps: Float[Tensor, " n"], resample: int) -> Float[Tensor, " m"]:
    """Return a sequence that takes each step down ``resample`` times, with a step back up in between.

    Repeating a step lets the generated part of a signal adapt to the part that is given.

    >>> repaint_steps(torch.tensor([2.0, 1.0, 0.0]), 2)
    tensor([2., 1., 2., 1., 0., 1., 0.])

    Chapter: 9. RePaint (Lugmayr et al., 2022), section 4.2. Raises ValueError for ``resample`` below 1.
    """
    if resample < 1:
        raise ValueError(f"resample must be at least 1, got {resample}")
    moves = torch.stack([steps[:-1], steps[1:]], dim=1).repeat(1, resample)  # down, up, ..., down
    return torch.cat([moves[:, :-1].flatten(), steps[-1:]])


def posterior(
    clean: Float[Tensor, "batch length"],
    noise: Float[Tensor, "batch length"],
    log_snr_t: Float[Tensor, ""],
    log_snr_s: Float[Tensor, ""],
    eta: float = 1.0,
) -> tuple[Float[Tensor, "batch length"], Float[Tensor, ""]]:
    """Return mean and standard deviation of x at ``log_snr_s``, given the clean signal and the noise of ``x =
    alpha clean + sigma noise`` at the lower ``log_snr_t``.

    With eta 1 it is the posterior ``q(x_s | x_t, x_0)`` of the forward process::

        mean = alpha clean + sqrt(sigma^2 - std^2) noise,  std = eta sigma sqrt(1 - snr_t / snr_s)

    with alpha and sigma of s.

    >>> mean, std = posterior(torch.ones(1, 1), torch.zeros(1, 1), torch.tensor(0.0), torch.tensor(1.0))
    >>> mean, std
    (tensor([[0.8550]]), tensor(0.4123))

    Chapter: 9. DDPM paper, equation 7; DDIM paper (Song et al., 2021), equation 12.
    """
    alpha, sigma = alpha_sigma(log_snr_s)
    std = eta * sigma * (-torch.expm1(log_snr_t - log_snr_s)).sqrt()
    return alpha * clean + (sigma.square() - std.square()).sqrt() * noise, std


def renoise(
    x: Float[Tensor, "batch length"],
    noise: Float[Tensor, "batch length"],
    log_snr_s: Float[Tensor, ""],
    log_snr_t: Float[Tensor, ""],
) -> Float[Tensor, "batch length"]:
    """Add noise to x, from ``log_snr_s`` to the lower ``log_snr_t``: the forward process ``q(x_t | x_s)``.

    ``noise`` has variance 1. Chapter: 9. DDPM paper, equation 2.
    """
    (alpha_s, _), (alpha_t, sigma_t) = alpha_sigma(log_snr_s), alpha_sigma(log_snr_t)
    return alpha_t / alpha_s * x + sigma_t * (-torch.expm1(log_snr_t - log_snr_s)).sqrt() * noise


def extrapolate(
    clean: Float[Tensor, "batch length"],
    noise: Float[Tensor, "batch length"],
    log_snr_t: Float[Tensor, ""],
    log_snr_s: Float[Tensor, ""],
    previous_clean: Float[Tensor, "batch length"],
    previous_log_snr: Float[Tensor, ""],
) -> tuple[Float[Tensor, "batch length"], Float[Tensor, "batch length"]]:
    """Extrapolate the clean estimate linearly in log-SNR to half-way from ``log_snr_t`` to ``log_snr_s``, and
    return it with the corresponding noise.

    >>> first, second, third = (torch.tensor(float(log_snr)) for log_snr in (0, 1, 2))
    >>> zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    >>> extrapolate(one, zero, second, third, zero, first)[0]
    tensor([[1.5000]])

    Chapter: 9. DPM-Solver++ paper (Lu et al., 2022), algorithm 2.
    """
    alpha, sigma = alpha_sigma(log_snr_t)
    change = (log_snr_s - log_snr_t) / (log_snr_t - previous_log_snr) / 2 * (clean - previous_clean)
    return clean + change, noise - alpha / sigma * change


@torch.no_grad()
@cudnn_as_matmul()
def sample(
    denoise: Denoise,
    schedule: Schedule,
    steps: Float[Tensor, " n"],
    x: Float[Tensor, "batch length"],
    sampler: DiffusionSampler = ANCESTRAL,
    generator: torch.Generator | None = None,
    constrain: Constrain | None = None,
    progress: bool = False,
) -> Float[Tensor, "batch length"]:
    """Run a sampler from ``x``, at the noise level of the first step, to the clean estimate at the last step.

    ``denoise(x, step)`` returns estimates of the clean x and of the noise, with ``x = alpha clean + sigma
    noise``. The steps may go back up in between (`repaint_steps`). ``constrain(x, step)`` is applied to x
    before each call of ``denoise``.

    The optimal denoiser of a constant signal recovers the constant:

    >>> from sashimi_lib.diffusion.schedules import LogSNRSchedule
    >>> def denoise(x, step):
    ...     alpha, sigma = alpha_sigma(schedule.log_snr(torch.tensor(step)))
    ...     return torch.full_like(x, 0.5), (x - alpha * 0.5) / sigma
    >>> schedule = LogSNRSchedule()
    >>> sample(denoise, schedule, log_snr_steps(schedule, 4), torch.randn(1, 2), DPM_SOLVER)
    tensor([[0.5000, 0.5000]])

    Chapter: 9. Raises ValueError for steps outside the schedule, and for the same step twice in a row.
    """
    log_snrs = schedule.log_snr(steps.cpu())  # on the CPU: comparing them must not synchronize with the GPU
    if len(steps) == 0 or not bool(log_snrs.diff().all()):
        raise ValueError(f"steps must be at least one, no two in a row the same, got {steps.tolist()}")

    def new_noise() -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    def constrained(step: float) -> Tensor:
        return x if constrain is None else constrain(x, step)

    previous = None  # the previous clean estimate and its log-SNR
    moves = list(zip(steps.tolist(), log_snrs[:-1], log_snrs[1:], strict=False))
    for step, current, following in tqdm(moves, unit="step", disable=not progress):
        x = constrained(step)
        if following < current:
            x, previous = renoise(x, new_noise(), current, following), None
            continue
        clean, noise = denoise(x, step)
        x = sampler.step(clean, noise, current, following, previous, new_noise)
        previous = clean, current
    x = constrained(float(steps[-1]))
    return denoise(x, float(steps[-1]))[0]
