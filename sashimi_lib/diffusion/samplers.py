"""From noise to sound: samplers, as functions over any denoiser (chapter 9).

All of them go down a path of steps and do the same at each: ask for the clean estimate, then go to the next
level of noise (`DiffusionSampler.step`), by ``x = alpha clean + sigma (old noise, or new)``. What tells them
apart is how much of the noise is new, and whether the clean estimate is drawn on in a straight line from the
one before. The end of each is the clean estimate at the last step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from sashimi_lib.diffusion.schedules import Schedule, alpha_sigma, step_of
from sashimi_lib.ssm.precision import cudnn_as_matmul

Denoise = Callable[[Tensor, float], tuple[Tensor, Tensor]]  # x, step -> estimates of clean x and its noise
Constrain = Callable[[Tensor, float], Tensor]  # x, step -> x as it has to be at that step

DIFFWAVE_BETAS = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5)


@dataclass(frozen=True)
class DiffusionSampler:
    """``eta`` from 0, no new noise, to 1, as much as the noising itself would have put there. ``order`` 1
    keeps the clean estimate from one step to the next, 2 draws it on in a straight line over log-SNR.

    `ANCESTRAL`, `DDIM` and `DPM_SOLVER` are those of the papers; all others in between work as well. Another
    family of samplers overrides `step`.

    Chapter: 9. Raises ValueError for other settings.
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
        here: Float[Tensor, ""],
        there: Float[Tensor, ""],
        before: tuple[Tensor, Tensor] | None,
        fresh: Callable[[], Tensor],
    ) -> Float[Tensor, "batch length"]:
        """x at the cleaner log-SNR ``there``, from estimates of the clean x and of its noise at ``here``.

        ``before`` is the last clean estimate and its log-SNR, None where there is none to go by; ``fresh()``
        is new noise.
        """
        if self.order == 2 and before is not None:
            clean, noise = drawn_on(clean, noise, here, there, *before)
        x, std = posterior(clean, noise, here, there, self.eta)
        return x + std * fresh() if self.eta > 0 else x


ANCESTRAL = DiffusionSampler(eta=1.0)  # DDPM (Ho et al., 2020), DiffWave, SaShiMi: for many steps
DDIM = DiffusionSampler()  # Song et al. (2021): the same start gives the same end
DPM_SOLVER = DiffusionSampler(order=2)  # DPM-Solver++ 2M (Lu et al., 2022): where DDIM goes, in fewer steps


def every_step(schedule: Schedule) -> Float[Tensor, " n"]:
    """All whole steps of a schedule, from the last one to 0: the path of the papers.

    >>> from sashimi_lib.diffusion.schedules import LinearSchedule
    >>> every_step(LinearSchedule(3))
    tensor([2., 1., 0.], dtype=torch.float64)

    Chapter: 9.
    """
    return torch.arange(schedule.steps - 1, -1, -1, dtype=torch.float64)


def grid(schedule: Schedule, n: int) -> Float[Tensor, " n"]:
    """``n`` steps from the last one to 0, at equal distances in log-SNR.

    Each then takes away the same share of the noise that is left. A few of the linear schedule's own steps,
    evenly chosen, would leave most of the way to the last: with six of them that is 6.8 of 11.1 in log-SNR.
    On mixtures of Gaussians, whose best denoiser is known, ten steps of the higher-order solver end nearer to
    its limit this way, on the linear and the cosine schedule; those of DDIM do where sounds are as quiet as
    most are. DiffWave's six steps, which were found by trying, lie 1.6 to 2.4 apart in log-SNR.

    >>> from sashimi_lib.diffusion.schedules import LogSNRSchedule
    >>> grid(LogSNRSchedule(101), 5)
    tensor([100.,  75.,  50.,  25.,   0.], dtype=torch.float64)

    Chapter: 9. Raises ValueError for fewer than two.
    """
    if n < 2:
        raise ValueError(f"n must be at least 2 steps, got {n}")
    ends = schedule.log_snr(torch.tensor([schedule.steps - 1, 0]))
    return step_of(schedule, torch.lerp(ends[0], ends[1], torch.linspace(0, 1, n, dtype=torch.float64)))


def six_steps(schedule: Schedule) -> Float[Tensor, " n"]:
    """DiffWave's fast path: betas of 0.0001, 0.001, 0.01, 0.05, 0.2 and 0.5, and the steps of a schedule that
    are as noisy.

    >>> from sashimi_lib.diffusion.schedules import LinearSchedule
    >>> six_steps(LinearSchedule())
    tensor([138.0839,  73.9825,  33.8203,  13.4303,   3.2007,   0.0000], dtype=torch.float64)

    It begins where much of the sound is still to be heard, so it is for vocoders, which know from the
    spectrogram what that is. Chapter: 9. DiffWave (Kong et al., 2021), fast sampling. Raises ValueError for a
    schedule that is not nearly clean at step 0.
    """
    alpha_squared = (1 - torch.tensor(DIFFWAVE_BETAS, dtype=torch.float64)).cumprod(0)
    return step_of(schedule, alpha_squared.logit()).flip(0)


def resampled(steps: Float[Tensor, " n"], times: int) -> Float[Tensor, " m"]:
    """A path that goes down to each next step ``times`` times, and back up in between.

    Where part of a sound is given, what is made up gets the chance to agree with it.

    >>> resampled(torch.tensor([2.0, 1.0, 0.0]), 2)
    tensor([2., 1., 2., 1., 0., 1., 0.])

    Chapter: 9. RePaint (Lugmayr et al., 2022), section 4.2. Raises ValueError for fewer times than one.
    """
    if times < 1:
        raise ValueError(f"times must be at least 1, got {times}")
    ways = torch.stack([steps[:-1], steps[1:]], dim=1).repeat(1, times)  # down, up, ..., down
    return torch.cat([ways[:, :-1].flatten(), steps[-1:]])


def posterior(
    clean: Float[Tensor, "batch length"],
    noise: Float[Tensor, "batch length"],
    here: Float[Tensor, ""],
    there: Float[Tensor, ""],
    eta: float = 1.0,
) -> tuple[Float[Tensor, "batch length"], Float[Tensor, ""]]:
    """Mean and standard deviation at log-SNR ``there``, given what ``x = alpha clean + sigma noise`` is made
    of at the noisier ``here``.

    With eta 1 it is the distribution of the noising itself, given both its ends::

        mean = alpha clean + sqrt(sigma^2 - std^2) noise,  std = eta sigma sqrt(1 - snr_here / snr_there)

    >>> mean, std = posterior(torch.ones(1, 1), torch.zeros(1, 1), torch.tensor(0.0), torch.tensor(1.0))
    >>> mean, std
    (tensor([[0.8550]]), tensor(0.4123))

    Chapter: 9. DDPM paper, equation 7; DDIM paper (Song et al., 2021), equation 12.
    """
    alpha, sigma = alpha_sigma(there)
    std = eta * sigma * (-torch.expm1(here - there)).sqrt()
    return alpha * clean + (sigma.square() - std.square()).sqrt() * noise, std


def more_noise(
    x: Float[Tensor, "batch length"],
    fresh: Float[Tensor, "batch length"],
    here: Float[Tensor, ""],
    there: Float[Tensor, ""],
) -> Float[Tensor, "batch length"]:
    """From log-SNR ``here`` up to the noisier ``there``, by noise of variance 1: the noising itself.

    Chapter: 9. DDPM paper, equation 2.
    """
    (alpha_here, _), (alpha, sigma) = alpha_sigma(here), alpha_sigma(there)
    return alpha / alpha_here * x + sigma * (-torch.expm1(there - here)).sqrt() * fresh


def drawn_on(
    clean: Float[Tensor, "batch length"],
    noise: Float[Tensor, "batch length"],
    here: Float[Tensor, ""],
    there: Float[Tensor, ""],
    clean_before: Float[Tensor, "batch length"],
    before: Float[Tensor, ""],
) -> tuple[Float[Tensor, "batch length"], Float[Tensor, "batch length"]]:
    """The clean estimate half-way ``there``, on the straight line over log-SNR through this one and the one
    ``before``; and the noise that goes with it.

    >>> first, second, third = (torch.tensor(float(level)) for level in (0, 1, 2))
    >>> zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    >>> drawn_on(one, zero, second, third, zero, first)[0]
    tensor([[1.5000]])

    Chapter: 9. DPM-Solver++ paper (Lu et al., 2022), algorithm 2.
    """
    alpha, sigma = alpha_sigma(here)
    change = (there - here) / (here - before) / 2 * (clean - clean_before)
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
    """From ``x``, as noisy as the first of the steps, to the clean estimate at the last.

    ``denoise(x, step)`` gives estimates of the clean x and of its noise, such that ``x = alpha clean + sigma
    noise``. The path of steps may go up again in between (`resampled`). ``constrain(x, step)`` is called at
    each step before it is denoised, and what it gives is gone on with.

    A denoiser that knows the sound to be a constant finds it:

    >>> from sashimi_lib.diffusion.schedules import LogSNRSchedule
    >>> def denoise(x, step):
    ...     alpha, sigma = alpha_sigma(schedule.log_snr(torch.tensor(step)))
    ...     return torch.full_like(x, 0.5), (x - alpha * 0.5) / sigma
    >>> schedule = LogSNRSchedule()
    >>> sample(denoise, schedule, grid(schedule, 4), torch.randn(1, 2), DPM_SOLVER)
    tensor([[0.5000, 0.5000]])

    Chapter: 9. Raises ValueError for steps that are beyond the schedule's ends, and for the same step twice
    in a row.
    """
    levels = schedule.log_snr(steps.cpu())  # what the loop asks of them must not wait for the network
    if len(steps) == 0 or not bool(levels.diff().all()):
        raise ValueError(f"steps must be at least one, no two in a row the same, got {steps.tolist()}")

    def fresh() -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    def constrained(step: float) -> Tensor:
        return x if constrain is None else constrain(x, step)

    before = None  # the last clean estimate, and where it was made
    ways = list(zip(steps.tolist(), levels[:-1], levels[1:], strict=False))
    for step, here, there in tqdm(ways, unit="step", disable=not progress):
        x = constrained(step)
        if there < here:
            x, before = more_noise(x, fresh(), here, there), None
            continue
        clean, noise = denoise(x, step)
        x = sampler.step(clean, noise, here, there, before, fresh)
        before = clean, here
    x = constrained(float(steps[-1]))
    return denoise(x, float(steps[-1]))[0]
