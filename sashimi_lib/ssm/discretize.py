"""Discretization (chapter 3): bilinear and zero-order hold, for dense and for structured matrices."""

import torch
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.ssm.systems import DPLR, DiagonalMatrix, Recurrence, real_columns, real_vector


def bilinear(
    A: Float[Tensor, "*H N N"], B: Float[Tensor, "*H N"], dt: float | Float[Tensor, "*H"]
) -> tuple[Float[Tensor, "*H N N"], Float[Tensor, "*H N"]]:
    """Discretize by the bilinear (Tustin) rule, which maps the left half plane onto the unit disc.

    ``A_bar = (I - dt/2 A)^-1 (I + dt/2 A)``, ``B_bar = (I - dt/2 A)^-1 dt B``; C is unchanged.

    >>> bilinear(torch.tensor([[-1.0]]), torch.tensor([1.0]), 0.1)[0]
    tensor([[0.9048]])

    Chapter: 3. Structured twin: `bilinear_dplr`. Raises ValueError for a dt that is not positive.
    """
    step = _step(A, dt)
    I = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    AB_bar = torch.linalg.solve(I - step / 2 * A, torch.cat([I + step / 2 * A, step * B[..., None]], -1))
    return AB_bar[..., :-1], AB_bar[..., -1]


def zoh(
    A: Float[Tensor, "*H N N"], B: Float[Tensor, "*H N"], dt: float | Float[Tensor, "*H"]
) -> tuple[Float[Tensor, "*H N N"], Float[Tensor, "*H N"]]:
    """Discretize by zero-order hold, which is exact for an input that is constant during each step.

    ``A_bar = exp(dt A)``, ``B_bar = A^-1 (A_bar - I) B``, both from one exponential of
    ``dt [[A, B], [0, 0]]``, which needs no inverse of A.

    >>> zoh(torch.tensor([[-1.0]]), torch.tensor([1.0]), 0.1)
    (tensor([[0.9048]]), tensor([0.0952]))

    Chapter: 3. Structured twin: `zoh_diagonal`. Raises ValueError for a dt that is not positive.
    """
    N = A.shape[-1]
    block = torch.nn.functional.pad(torch.cat([A, B[..., None]], -1), (0, 0, 0, 1))
    exponential = torch.linalg.matrix_exp(_step(A, dt) * block)
    return exponential[..., :N, :N], exponential[..., :N, N]


def bilinear_dplr(system: DPLR) -> Recurrence:
    """Discretize ``A = diag(Lambda) + p q*`` by the bilinear rule, without inverting an N x N matrix.

    With ``S = (I - dt/2 Lambda)^-1`` and the r x r matrix ``G = (I - dt/2 q* S p)^-1`` Woodbury's identity is
    ``(I - dt/2 A)^-1 = S + dt/2 S p G q* S``, and ``A_bar = 2 (I - dt/2 A)^-1 - I``.

    >>> one, empty = torch.ones(1, 1) + 0j, torch.zeros(1, 1, 0) + 0j
    >>> bilinear_dplr(DPLR(-one, empty, empty, one, one, torch.tensor([0.1]))).modes.real
    tensor([[0.9048]])

    Chapter: 4 (equation woodbury). Dense twin: `bilinear`.
    """
    dt = system.dt[:, None]
    S = 1 / (1 - dt / 2 * system.Lambda)
    Sp = real_columns(S[..., None] * system.p)
    Sq = 2 * real_columns(S.conj()[..., None] * system.q)
    I = torch.eye(Sp.shape[-1], dtype=dt.dtype, device=dt.device)
    G, _ = torch.linalg.inv_ex(I - dt[..., None] / 2 * system.q_row() @ Sp)
    left = dt[..., None] * Sp @ G
    B = real_vector(S * system.B) + (left @ (Sq.mT @ real_vector(system.B)[..., None]))[..., 0] / 2
    diagonal = 2 * S - 1
    return Recurrence(DiagonalMatrix(diagonal.real, diagonal.imag), left, Sq, dt * B, system.C_row())


def zoh_diagonal(system: DPLR) -> Recurrence:
    """Discretize a diagonal A by zero-order hold.

    ``A_bar = exp(dt Lambda)``, ``B_bar = (A_bar - 1) / Lambda B``.

    >>> one, empty = torch.ones(1, 1) + 0j, torch.zeros(1, 1, 0) + 0j
    >>> zoh_diagonal(DPLR(-one, empty, empty, one, one, torch.tensor([0.1]))).B
    tensor([[0.0952, 0.0000]])

    Chapter: 4. Dense twin: `zoh`. Raises ValueError for a system with a low-rank term.
    """
    if system.p.shape[-1]:
        raise ValueError(f"p must have rank 0 for the zero-order hold, got rank {system.p.shape[-1]}")
    A_bar = torch.exp(system.dt[:, None] * system.Lambda)
    B = real_vector((A_bar - 1) / system.Lambda * system.B)
    empty = B[..., None][..., :0]
    return Recurrence(DiagonalMatrix(A_bar.real, A_bar.imag), empty, empty, B, system.C_row())


def _step(A: Tensor, dt: float | Tensor) -> Tensor:
    if not (bool((dt > 0).all()) if isinstance(dt, Tensor) else dt > 0):
        raise ValueError(f"dt must be positive, got {dt}")
    return torch.as_tensor(dt, dtype=A.dtype, device=A.device)[..., None, None]
