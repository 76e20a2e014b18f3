"""Stability of linear systems: eigenvalues, numerical range and growth of powers (chapter 5)."""

import math

import torch
from jaxtyping import Complex128, Float
from torch import Tensor


def spectral_abscissa(A: Tensor) -> Float[Tensor, "*H"]:
    """Return ``max Re eig(A)``; a continuous-time system is stable where it is negative.

    >>> spectral_abscissa(torch.tensor([[-1.0, 5.0], [0.0, -2.0]]))
    tensor(-1.)

    Chapter: 5.
    """
    return torch.linalg.eigvals(A).real.amax(-1)


def is_hurwitz(A: Tensor) -> bool:
    """Return whether every eigenvalue lies strictly in the left half plane (SaShiMi paper, section 4.1).

    >>> [is_hurwitz(torch.tensor([[0.0, 1.0], [-1.0, damping]])) for damping in (-0.1, 0.0)]
    [True, False]

    Chapter: 5.
    """
    return bool((spectral_abscissa(A) < 0).all())


def spectral_radius(A_bar: Tensor) -> Float[Tensor, "*H"]:
    """Return ``max |eig(A_bar)|``; a discrete-time system is stable where it is below one.

    >>> spectral_radius(torch.tensor([[0.5, 5.0], [0.0, -0.9]]))
    tensor(0.9000)

    Chapter: 5.
    """
    return torch.linalg.eigvals(A_bar).abs().amax(-1)


def numerical_abscissa(A: Tensor) -> Float[Tensor, "*H"]:
    """Return ``max eig((A + A*) / 2)``, the right edge of the numerical range.

    It is the largest initial growth rate of ``||x||``, and an upper bound of `spectral_abscissa`. Where it is
    negative, the norm of no state ever grows.

    >>> numerical_abscissa(torch.tensor([[-1.0, 5.0], [0.0, -2.0]]))
    tensor(1.0495)

    Chapter: 5 (equation numerical-range).
    """
    return torch.linalg.eigvalsh((A + A.mH) / 2)[..., -1]


def numerical_range(A: Tensor, points: int = 200) -> Complex128[Tensor, " points"]:
    """Return points on the boundary of ``{v* A v : |v| = 1}``, a convex set that contains all eigenvalues.

    They are in order of angle. For each angle, the eigenvector of the largest eigenvalue of the rotated
    Hermitian part gives a boundary point.

    >>> numerical_range(torch.diag(torch.tensor([-1.0, -3.0])), points=4).real.round().tolist()
    [-1.0, -3.0, -3.0, -1.0]

    Chapter: 5. Raises ValueError for anything but one square matrix.
    """
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"A must be one square matrix, got shape {tuple(A.shape)}")
    A = A.to(torch.complex128)
    angle = (torch.arange(points, dtype=torch.float64, device=A.device) + 0.5) * (2 * math.pi / points)
    rotated = torch.exp(-1j * angle)[:, None, None] * A
    v = torch.linalg.eigh((rotated + rotated.mH) / 2).eigenvectors[..., -1]
    return torch.einsum("pn,nm,pm->p", v.conj(), A, v)


def growth(A_bar: Tensor, steps: int) -> Float[Tensor, "*H"]:
    """Return ``||A_bar^steps||_2``, the largest amplification of a state in ``steps`` steps.

    It is infinite where the power overflows.

    >>> growth(torch.tensor([[0.5]]), 3)
    tensor(0.1250)

    Chapter: 5. Raises ValueError for negative ``steps``.
    """
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    power = torch.linalg.matrix_power(A_bar, steps)
    finite = power.isfinite().all(-1).all(-1)
    norm = torch.linalg.matrix_norm(torch.where(finite[..., None, None], power, 0), ord=2)
    return torch.where(finite, norm, torch.inf)
