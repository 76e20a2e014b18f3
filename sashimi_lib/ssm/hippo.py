"""HiPPO: state matrices whose linear ODE projects its input history onto an orthogonal basis (chapter 2).

The state ``c'(t) = A c(t) + B f(t)`` of such a matrix holds the coefficients of the history of ``f``: in
Legendre polynomials over all of it (LegS), or over a sliding window of two time units in Legendre polynomials
(LegT) or in sines and cosines (FouT).
"""

import math
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex128, Float, Float64
from scipy.special import eval_legendre
from torch import Tensor

from sashimi_lib.ssm.discretize import zoh

WINDOW = 2.0  # length of the window of LegT and FouT in time units, with the matrices below


class Measure(StrEnum):
    """The measure of a HiPPO matrix: a weighting of the input history, with its basis."""

    LEGS = "legs"
    LEGT = "legt"
    FOUT = "fout"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"measure must be one of legs, legt, fout, got {value!r}")


class NPLR(NamedTuple):
    """A HiPPO matrix in the eigenbasis of its normal part; one of each conjugate pair is stored.

    With ``P_hippo = 2 Re(V P)`` the measure has ``A = 2 Re(V diag(Lambda) V*) - P_hippo P_hippo^T``
    and ``B_hippo = 2 Re(V B)``.
    """

    Lambda: Complex128[Tensor, " M"]
    P: Complex128[Tensor, "M r"]
    B: Complex128[Tensor, " M"]
    V: Complex128[Tensor, "N M"]


def legs(N: int) -> tuple[Float64[Tensor, "N N"], Float64[Tensor, " N"]]:
    """Return (A, B) of HiPPO-LegS, the scaled Legendre measure: the whole history, uniformly weighted.

    ``A[n, k] = -sqrt((2n+1)(2k+1))`` below the diagonal, ``-(n+1)`` on it, 0 above; ``B[n] = sqrt(2n+1)``.

    >>> legs(2)[0]
    tensor([[-1.0000,  0.0000],
            [-1.7321, -2.0000]], dtype=torch.float64)

    Chapter: 2.
    """
    n = torch.arange(_positive(N), dtype=torch.float64)
    B = (2 * n + 1).sqrt()
    return torch.tril(-torch.outer(B, B), -1) - torch.diag(n + 1), B


def legt(N: int) -> tuple[Float64[Tensor, "N N"], Float64[Tensor, " N"]]:
    """Return (A, B) of HiPPO-LegT, the translated Legendre measure: a sliding window of two time units.

    ``A[n, k] = -sqrt((2n+1)(2k+1)) / 2``, times ``(-1)^(n-k)`` above the diagonal; ``B[n] = sqrt(2n+1) / 2``.

    >>> legt(2)[0]
    tensor([[-0.5000,  0.8660],
            [-0.8660, -1.5000]], dtype=torch.float64)

    Chapter: 2.
    """
    n = torch.arange(_positive(N), dtype=torch.float64)
    R = (2 * n + 1).sqrt()
    sign = (-1.0) ** (n[:, None] - n)
    return -0.5 * torch.outer(R, R) * torch.where(n > n[:, None], sign, 1.0), 0.5 * R


def fout(N: int) -> tuple[Float64[Tensor, "N N"], Float64[Tensor, " N"]]:
    """Return (A, B) of HiPPO-FouT, the truncated Fourier measure: a sliding window of two time units.

    ``A = S - B B^T``, where S rotates the n-th cosine into the n-th sine by ``pi n`` radians per time unit.

    >>> fout(2)
    (tensor([[-1.,  0.],
            [ 0.,  0.]], dtype=torch.float64), tensor([1., 0.], dtype=torch.float64))

    Chapter: 2. Raises ValueError for an odd N, with which a cosine would have no sine.
    """
    frequency = torch.zeros(_even(N) - 1, dtype=torch.float64)
    frequency[::2] = torch.arange(N // 2, dtype=torch.float64)
    B = torch.zeros(N, dtype=torch.float64)
    B[::2] = math.sqrt(2)
    B[0] = 1
    S = math.pi * (torch.diag(frequency, -1) - torch.diag(frequency, 1))
    return S - torch.outer(B, B), B


def hippo(measure: Measure | str, N: int) -> tuple[Float64[Tensor, "N N"], Float64[Tensor, " N"]]:
    """Return (A, B) of a measure.

    >>> bool(torch.equal(hippo("legs", 4)[0], legs(4)[0]))
    True

    Chapter: 2. Raises ValueError for an unknown measure.
    """
    return {Measure.LEGS: legs, Measure.LEGT: legt, Measure.FOUT: fout}[Measure(measure)](N)


def low_rank(measure: Measure | str, N: int) -> Float64[Tensor, "N r"]:
    """Return P such that ``A + P P^T`` is normal; its rank is 1 for LegS and FouT, 2 for LegT.

    >>> low_rank("legs", 4)[:, 0]
    tensor([0.7071, 1.2247, 1.5811, 1.8708], dtype=torch.float64)

    Chapter: 4 (equation nplr). S4 paper, theorem 1 and appendix C.
    """
    n = torch.arange(_positive(N), dtype=torch.float64)
    match Measure(measure):
        case Measure.LEGS:
            return (n + 0.5).sqrt()[:, None]
        case Measure.LEGT:
            P = (n + 0.5).sqrt()
            return torch.stack([P * (n % 2), P * (1 - n % 2)], dim=1)
        case Measure.FOUT:
            return fout(N)[1][:, None]


def nplr(measure: Measure | str, N: int) -> NPLR:
    """Diagonalize the normal part of a HiPPO matrix in float64, and return one of each conjugate pair.

    ``A + P P^T = a I + S`` with S skew-symmetric, so ``-i S`` is Hermitian and `eigh` gives a unitary V. That
    is well conditioned, unlike the eigenvectors of A itself (condition number 8e10 at N = 16).

    >>> nplr("legs", 4).Lambda
    tensor([-0.5000-4.6033j, -0.5000-0.5565j], dtype=torch.complex128)

    Chapter: 4. Raises ValueError for an odd N.
    """
    A, B = hippo(measure, _even(N))
    P = low_rank(measure, N)
    normal = A + P @ P.mT
    real = normal.diagonal().mean()
    imag, V = torch.linalg.eigh(-1j * (normal - real * torch.eye(N, dtype=torch.float64)))
    imag, V = imag[: N // 2], V[:, : N // 2]  # ascending: the half with negative imaginary part
    if imag[-1].abs() < 1e-9:  # FouT: states 0 and 1 share the eigenvalue 0, for which eigh returns any basis
        V[:, -1] = 0
        V[:2, -1] = torch.tensor([1, 1j], dtype=V.dtype) / math.sqrt(2)
        imag[-1] = 0
    adjoint = V.mH
    return NPLR(real + 1j * imag, adjoint @ P.to(V.dtype), adjoint @ B.to(V.dtype), V)


class Diagonal(StrEnum):
    """Initialization of the eigenvalues of S4D (S4D paper, section 4)."""

    LIN = "lin"
    INV = "inv"
    LEGS = "legs"
    REAL = "real"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"init must be one of lin, inv, legs, real, got {value!r}")


def diagonal(init: Diagonal | str, N: int) -> tuple[Complex128[Tensor, " M"], Complex128[Tensor, " M"]]:
    """Return the initial (Lambda, B) of S4D, one of each conjugate pair: M = N/2, n = 0 ... M-1.

    Lin ``-1/2 + i pi n``; Inv ``-1/2 + i N/pi (N/(2n+1) - 1)``; LegS the diagonal part of HiPPO-LegS, with
    its B; Real ``-(n+1)``. B is 1 except for LegS.

    >>> diagonal("lin", 4)[0]
    tensor([-0.5000+0.0000j, -0.5000+3.1416j], dtype=torch.complex128)

    Chapter: 4. Raises ValueError for an odd N.
    """
    n = torch.arange(_even(N) // 2, dtype=torch.float64)
    one = torch.ones(N // 2, dtype=torch.complex128)
    match Diagonal(init):
        case Diagonal.LIN:
            return -0.5 + 1j * math.pi * n, one
        case Diagonal.INV:
            return -0.5 + 1j * N / math.pi * (N / (2 * n + 1) - 1), one
        case Diagonal.LEGS:
            normal = nplr(Measure.LEGS, N)
            return normal.Lambda, normal.B
        case Diagonal.REAL:
            return -(n + 1) * one, one


def project(
    signal: Float[Tensor, " length"], measure: Measure | str, N: int, window: int | None = None
) -> Float64[Tensor, "length N"]:
    """Return the coefficients of the input history after each sample, computed by the recurrence.

    LegS scales with time, ``c' = (A c + B f) / t``, and takes no window; in ``s = log t`` that is
    time-invariant, so its k-th step has length ``log((k + 1) / k)``. LegT and FouT run at ``dt = 2 / window``
    and represent the last ``window`` samples. The input is constant between samples, for which a step of
    `zoh` is exact.

    >>> project(torch.ones(100), "legs", 3)[-1].round(decimals=6).abs()
    tensor([1., 0., 0.], dtype=torch.float64)

    Chapter: 2. Inverse: `reconstruct`. Raises ValueError for an empty signal, and where window is missing,
    not positive, or given to LegS.
    """
    _check_history(signal, Measure(measure), window)
    A, B = (matrix.to(signal.device) for matrix in hippo(measure, N))
    coefficients = torch.zeros(len(signal), N, dtype=torch.float64, device=signal.device)
    c = coefficients.new_zeros(N)
    if window is not None:
        A_bar, B_bar = zoh(A, B, WINDOW / window)
    for k, f in enumerate(signal.double()):
        if window is not None:
            c = A_bar @ c + B_bar * f
        elif k == 0:  # the history is one sample, a constant: exactly f times the first basis function
            c[0] = f
        else:
            A_bar, B_bar = zoh(A, B, math.log((k + 1) / k))
            c = A_bar @ c + B_bar * f
        coefficients[k] = c
    return coefficients


def basis(measure: Measure | str, N: int, position: Float[Tensor, " P"]) -> Float64[Tensor, "N P"]:
    """Evaluate the N basis functions at positions in [0, 1] of the window: 0 is its start, 1 the present.

    Legendre: ``sqrt(2n+1) P_n(2x-1)``. Fourier: 1 and 0, then ``sqrt(2) cos`` and ``sqrt(2) sin`` of
    ``2 pi n (1-x)`` in turn, n = 1 ... N/2 - 1.

    >>> basis("legs", 3, torch.tensor([1.0]))[:, 0]
    tensor([1.0000, 1.7321, 2.2361], dtype=torch.float64)

    Chapter: 2. Raises ValueError for an odd N with FouT.
    """
    x = position.double().cpu().numpy()
    if Measure(measure) is Measure.FOUT:
        angle = 2 * np.pi * np.arange(_even(N) // 2)[:, None] * (1 - x)
        rows = np.stack([np.cos(angle), np.sin(angle)], axis=1).reshape(N, -1) * math.sqrt(2)
        rows[0] = 1
    else:
        n = np.arange(_positive(N))[:, None]
        rows = np.sqrt(2 * n + 1) * eval_legendre(n, 2 * x - 1)
    return torch.from_numpy(rows).to(position.device)


def reconstruct(
    coefficients: Float[Tensor, "*batch N"], measure: Measure | str, position: Float[Tensor, " P"]
) -> Float64[Tensor, "*batch P"]:
    """Reconstruct the input history from a state, at positions in [0, 1] of its window (1 is the present).

    >>> reconstruct(torch.tensor([1.0, 0.0, 0.0]), "legs", torch.tensor([0.0, 0.5, 1.0]))
    tensor([1., 1., 1.], dtype=torch.float64)

    Chapter: 2. Inverse of `project`.
    """
    return coefficients.double() @ basis(measure, coefficients.shape[-1], position)


def _check_history(signal: Tensor, measure: Measure, window: int | None) -> None:
    if len(signal) == 0:
        raise ValueError("signal must hold at least one sample, got none")
    if measure is Measure.LEGS and window is not None:
        raise ValueError(f"window must be None for legs, which covers the whole history, got {window}")
    if measure is not Measure.LEGS and not (window is not None and window > 0):
        raise ValueError(f"window must be a positive number of samples for {measure.value}, got {window}")


def _positive(N: int) -> int:
    if N < 1:
        raise ValueError(f"N must be a positive number of states, got {N}")
    return N


def _even(N: int) -> int:
    if _positive(N) % 2:
        raise ValueError(f"N must be even (conjugate pairs; one sine to each cosine), got {N}")
    return N
