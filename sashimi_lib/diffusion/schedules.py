"""How noisy a sound is at each step: noise schedules.

A sound at step s is ``x_s = alpha x_0 + sigma eps``, with ``alpha^2 + sigma^2 = 1``. All there is to know of
a step is its signal-to-noise ratio ``alpha^2 / sigma^2``, and schedules give its logarithm. It falls from
step 0, nearly clean, to the last one, nearly noise. Between whole steps there are all the others.

Steps and schedules live on the CPU, in float64: they are a few numbers, and small differences of theirs
matter.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sashimi_lib.checks import at_least
from sashimi_lib.registry import register


@dataclass(frozen=True)
class Schedule(ABC):
    """``steps`` steps, from 0 to ``steps - 1``, of ever more noise.

    Chapter: 9. Raises ValueError for fewer than two steps.
    """

    steps: int = 200

    def __post_init__(self) -> None:
        at_least(self, 2, "steps")

    def log_snr(self, step: Shaped[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """``log(alpha^2 / sigma^2)`` at steps, whole or not, in float64.

        >>> LinearSchedule().log_snr(torch.tensor([0, 99.5, 199]))
        tensor([ 9.2102,  0.4031, -1.8818], dtype=torch.float64)

        Raises ValueError for steps beyond the ends.
        """
        last = self.steps - 1
        if not bool(((step >= 0) & (step <= last)).all()):
            raise ValueError(f"step must lie in 0..{last}, got {step.tolist()}")
        return self._log_snr(step.double())

    @abstractmethod
    def _log_snr(self, step: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """`log_snr`, of steps in float64 that are known to be in range."""


class _Betas(Schedule):
    """A schedule by the share of noise ``beta`` that each whole step mixes in: ``alpha^2`` is the product of
    ``1 - beta`` up to it. In between, alpha is a straight line, as DiffWave's fast sampling has it."""

    @abstractmethod
    def betas(self) -> Float[Tensor, " steps"]:
        """The share of noise, as a variance, that each step mixes in; float64."""

    def _log_snr(self, step: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        alphas = (1 - self.betas()).cumprod(0).sqrt().to(step.device)
        before = step.floor().long().clamp(max=self.steps - 2)
        alpha = torch.lerp(alphas[before], alphas[before + 1], step - before)
        return 2 * alpha.log() - torch.log1p(-alpha.square())


@register
@dataclass(frozen=True)
class LinearSchedule(_Betas):
    """Betas on a straight line, as DDPM, DiffWave and SaShiMi have them. The default is the published one for
    unconditional sound, in 200 steps where DDPM had 1,000; the vocoder's is
    ``LinearSchedule(50, beta_end=0.05)``.

    >>> LinearSchedule().log_snr(torch.tensor([0, 99, 199])).sigmoid()  # alpha squared
    tensor([0.9999, 0.6025, 0.1322], dtype=torch.float64)

    The last step is far from noise: its alpha is 0.36. Chapter: 9. DDPM paper (Ho et al., 2020), section 4.
    Raises ValueError for betas outside (0, 1) or in falling order.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start and beta_end must satisfy 0 < beta_start <= beta_end < 1, got {self.beta_start} "
                f"and {self.beta_end}"
            )

    def betas(self) -> Float[Tensor, " steps"]:
        """``steps`` numbers from ``beta_start`` to ``beta_end``."""
        return torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)


PUBLISHED = LinearSchedule()


@register
@dataclass(frozen=True)
class CosineSchedule(_Betas):
    """``alpha(t) = cos(pi/2 (t/T + offset) / (1 + offset)) / cos(pi/2 offset / (1 + offset))`` after t of T
    steps. No beta is above 0.999, so that the last step keeps a trace of the sound.

    >>> CosineSchedule().log_snr(torch.tensor([0, 99, 199])).sigmoid()
    tensor([9.9975e-01, 4.9384e-01, 6.0...e-08], dtype=torch.float64)

    Chapter: 9. Nichol and Dhariwal (2021), section 3.2. Raises ValueError for an offset outside [0, 1).
    """

    offset: float = 0.008

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.offset < 1:
            raise ValueError(f"offset must lie in [0, 1), got {self.offset}")

    def betas(self) -> Float[Tensor, " steps"]:
        """The share of noise that each step mixes in, at most 0.999."""
        done = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        squared = torch.cos(math.pi / 2 * (done + self.offset) / (1 + self.offset)).square()
        return (1 - squared[1:] / squared[:-1]).clamp(max=0.999)


@register
@dataclass(frozen=True)
class LogSNRSchedule(Schedule):
    """The logarithm of the signal-to-noise ratio falls on a straight line from ``highest`` to ``lowest``.

    The default goes from noise of 1/400, which a quiet recording still has the better of, to sound of 1/55,
    which nobody finds in the noise.

    >>> LogSNRSchedule().log_snr(torch.tensor([0, 99.5, 199]))
    tensor([12.,  2., -8.], dtype=torch.float64)

    Chapter: 9. Raises ValueError unless both are finite and in falling order.
    """

    highest: float = 12.0
    lowest: float = -8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -math.inf < self.lowest < self.highest < math.inf:
            raise ValueError(
                f"lowest must be below highest, both finite, got {self.lowest} and {self.highest}"
            )

    def _log_snr(self, step: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return self.highest + step / (self.steps - 1) * (self.lowest - self.highest)


def alpha_sigma(
    log_snr: Float[Tensor, "*batch"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """How much sound and how much noise: ``alpha = sqrt(sigmoid(log_snr))``, ``sigma =
    sqrt(sigmoid(-log_snr))``.

    >>> alpha_sigma(torch.tensor(0.0))
    (tensor(0.7071), tensor(0.7071))

    Chapter: 9.
    """
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def add_noise(
    x: Float[Tensor, "batch length"], noise: Float[Tensor, "batch length"], log_snr: Float[Tensor, "*levels"]
) -> Float[Tensor, "batch length"]:
    """``alpha x + sigma noise``, at one level for the whole batch or at one for each sound.

    >>> add_noise(torch.ones(1, 2), torch.tensor([[0.0, 1.0]]), torch.tensor([0.0]))
    tensor([[0.7071, 1.4142]])

    Chapter: 9. DDPM paper, equation 4.
    """
    alpha, sigma = (beside(c, x) for c in alpha_sigma(log_snr))
    return alpha * x + sigma * noise


def beside(
    coefficient: Float[Tensor, "*levels"], x: Float[Tensor, "batch length"]
) -> Float[Tensor, "*levels 1"]:
    """A coefficient as a factor of sounds, on their device and in their precision. Nobody waits for the copy.

    >>> beside(torch.tensor([0.5, 1.0], dtype=torch.float64), torch.zeros(2, 4))
    tensor([[0.5000],
            [1.0000]])

    Chapter: 9.
    """
    return coefficient[..., None].to(x, non_blocking=True)


def step_of(schedule: Schedule, log_snr: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The step, seldom a whole one, at which a schedule has that log-SNR: the inverse of
    `Schedule.log_snr`.

    >>> step_of(LinearSchedule(), torch.tensor(0.375786).logit())
    tensor(138.0839, dtype=torch.float64)

    By bisection, to nine decimals, for any schedule. Chapter: 9. Raises ValueError for what is beyond
    the schedule's ends.
    """
    wanted = log_snr.double()
    last = float(schedule.steps - 1)
    highest, lowest = schedule.log_snr(torch.tensor([0, last])).tolist()
    slack = 1e-6  # the ends themselves, after some rounding
    if not bool(((wanted >= lowest - slack) & (wanted <= highest + slack)).all()):
        raise ValueError(
            f"log_snr must lie in the schedule's range, {lowest:.4f} to {highest:.4f}, got {log_snr.tolist()}"
        )
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, last)
    for _ in range(64):
        middle = (low + high) / 2
        noisier = schedule.log_snr(middle) < wanted
        low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
    return low.round(decimals=9)
