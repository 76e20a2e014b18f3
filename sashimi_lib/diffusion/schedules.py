"""Noise schedules: the signal-to-noise ratio at each diffusion step (chapter 9).

The noisy signal at step t is ``x_t = alpha x_0 + sigma eps``, with ``alpha^2 + sigma^2 = 1``. A step is
characterized by its signal-to-noise ratio ``alpha^2 / sigma^2``, and a schedule returns the logarithm of that
ratio (log-SNR). It decreases from step 0, nearly clean, to the last step, nearly noise. Steps are continuous:
fractions of a step are valid.

Steps and schedules stay on the CPU in float64: they are a few numbers, and small differences matter.
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
    """A noise schedule with ``steps`` whole steps, from 0 to ``steps - 1``, in order of increasing noise.

    Chapter: 9. Raises ValueError for fewer than two steps.
    """

    steps: int = 200  # Diffusion steps.

    def __post_init__(self) -> None:
        at_least(self, 2, "steps")

    def log_snr(self, step: Shaped[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return ``log(alpha^2 / sigma^2)`` at whole or fractional steps, in float64.

        >>> LinearSchedule().log_snr(torch.tensor([0, 99.5, 199]))
        tensor([ 9.2102,  0.4031, -1.8818], dtype=torch.float64)

        Raises ValueError for steps outside the schedule.
        """
        last = self.steps - 1
        if not bool(((step >= 0) & (step <= last)).all()):
            raise ValueError(f"step must lie in 0..{last}, got {step.tolist()}")
        return self._log_snr(step.double())

    @abstractmethod
    def _log_snr(self, step: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Compute `log_snr` for steps in float64 that have been validated."""


class _Betas(Schedule):
    """A schedule defined by the variance ``beta`` of the noise that each whole step adds: ``alpha^2`` is the
    cumulative product of ``1 - beta``. Between whole steps alpha is interpolated linearly, as in DiffWave's
    fast sampling."""

    @abstractmethod
    def betas(self) -> Float[Tensor, " steps"]:
        """Return the variance of the noise that each step adds, in float64."""

    def _log_snr(self, step: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        alphas = (1 - self.betas()).cumprod(0).sqrt().to(step.device)
        left = step.floor().long().clamp(max=self.steps - 2)
        alpha = torch.lerp(alphas[left], alphas[left + 1], step - left)
        return 2 * alpha.log() - torch.log1p(-alpha.square())


@register
@dataclass(frozen=True)
class LinearSchedule(_Betas):
    """A schedule with linearly increasing betas, as in DDPM, DiffWave and SaShiMi.

    The default is the published one for unconditional generation, with 200 steps instead of DDPM's 1,000; the
    vocoder's is ``LinearSchedule(50, beta_end=0.05)``.

    >>> LinearSchedule().log_snr(torch.tensor([0, 99, 199])).sigmoid()  # alpha squared
    tensor([0.9999, 0.6025, 0.1322], dtype=torch.float64)

    The last step is not pure noise: its alpha is 0.36. Chapter: 9. DDPM paper (Ho et al., 2020), section 4.
    Raises ValueError for betas outside (0, 1) or in decreasing order.
    """

    beta_start: float = 1e-4  # Noise variance of the first step.
    beta_end: float = 0.02  # Noise variance of the last step.

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start and beta_end must satisfy 0 < beta_start <= beta_end < 1, got {self.beta_start} "
                f"and {self.beta_end}"
            )

    def betas(self) -> Float[Tensor, " steps"]:
        """Return ``steps`` values from ``beta_start`` to ``beta_end``."""
        return torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)


PUBLISHED = LinearSchedule()


@register
@dataclass(frozen=True)
class CosineSchedule(_Betas):
    """A schedule whose alpha is a quarter of a cosine.

    ``alpha(t) = cos(pi/2 (t/T + offset) / (1 + offset)) / cos(pi/2 offset / (1 + offset))`` after t of T
    steps. Betas are clipped to 0.999, so that alpha stays positive at the last step.

    >>> CosineSchedule().log_snr(torch.tensor([0, 99, 199])).sigmoid()
    tensor([9.9975e-01, 4.9384e-01, 6.0...e-08], dtype=torch.float64)

    Chapter: 9. Nichol and Dhariwal (2021), section 3.2. Raises ValueError for an offset outside [0, 1).
    """

    offset: float = 0.008  # Offset of the cosine, which keeps the first steps from being too small.

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.offset < 1:
            raise ValueError(f"offset must lie in [0, 1), got {self.offset}")

    def betas(self) -> Float[Tensor, " steps"]:
        """Return the variance of the noise that each step adds, at most 0.999."""
        time = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        squared = torch.cos(math.pi / 2 * (time + self.offset) / (1 + self.offset)).square()
        return (1 - squared[1:] / squared[:-1]).clamp(max=0.999)


@register
@dataclass(frozen=True)
class LogSNRSchedule(Schedule):
    """A schedule whose log-SNR decreases linearly from ``highest`` to ``lowest``.

    The default goes from sigma 1/400, below the level of a quiet recording, to alpha 1/55, where the signal
    is lost in the noise.

    >>> LogSNRSchedule().log_snr(torch.tensor([0, 99.5, 199]))
    tensor([12.,  2., -8.], dtype=torch.float64)

    Chapter: 9. Raises ValueError unless both are finite and ``lowest`` is below ``highest``.
    """

    highest: float = 12.0  # Log signal-to-noise ratio of the first step.
    lowest: float = -8.0  # Log signal-to-noise ratio of the last step.

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
    """Return the amplitudes of signal and noise: ``alpha = sqrt(sigmoid(log_snr))`` and ``sigma =
    sqrt(sigmoid(-log_snr))``.

    >>> alpha_sigma(torch.tensor(0.0))
    (tensor(0.7071), tensor(0.7071))

    Chapter: 9.
    """
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def add_noise(
    x: Float[Tensor, "batch length"], noise: Float[Tensor, "batch length"], log_snr: Float[Tensor, "*levels"]
) -> Float[Tensor, "batch length"]:
    """Return ``alpha x + sigma noise``, with one noise level for the whole batch or one per sequence.

    >>> add_noise(torch.ones(1, 2), torch.tensor([[0.0, 1.0]]), torch.tensor([0.0]))
    tensor([[0.7071, 1.4142]])

    Chapter: 9. DDPM paper, equation 4.
    """
    alpha, sigma = (broadcast_over_time(c, x) for c in alpha_sigma(log_snr))
    return alpha * x + sigma * noise


def broadcast_over_time(
    coefficient: Float[Tensor, "*levels"], x: Float[Tensor, "batch length"]
) -> Float[Tensor, "*levels 1"]:
    """Reshape coefficients to broadcast over the samples of ``x``, with its device and dtype.

    The copy to the device is asynchronous.

    >>> broadcast_over_time(torch.tensor([0.5, 1.0], dtype=torch.float64), torch.zeros(2, 4))
    tensor([[0.5000],
            [1.0000]])

    Chapter: 9.
    """
    return coefficient[..., None].to(x, non_blocking=True)


def step_at_log_snr(schedule: Schedule, log_snr: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return the fractional step at which a schedule has a given log-SNR: the inverse of `Schedule.log_snr`.

    >>> step_at_log_snr(LinearSchedule(), torch.tensor(0.375786).logit())
    tensor(138.0839, dtype=torch.float64)

    Bisection, to nine decimals, for any schedule. Chapter: 9. Raises ValueError for a log-SNR outside the
    schedule's range.
    """
    log_snrs = log_snr.double()
    last = float(schedule.steps - 1)
    highest, lowest = schedule.log_snr(torch.tensor([0, last])).tolist()
    tolerance = 1e-6  # the ends themselves, up to rounding
    if not bool(((log_snrs >= lowest - tolerance) & (log_snrs <= highest + tolerance)).all()):
        raise ValueError(
            f"log_snr must lie in the schedule's range, {lowest:.4f} to {highest:.4f}, got {log_snr.tolist()}"
        )
    low, high = torch.zeros_like(log_snrs), torch.full_like(log_snrs, last)
    for _ in range(64):
        middle = (low + high) / 2
        noisier = schedule.log_snr(middle) < log_snrs
        low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
    return low.round(decimals=9)
