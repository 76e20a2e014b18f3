"""The convolution kernel ``K = (C B, C A B, C A^2 B, ...)`` of a discretized system (chapters 3 and 4).

Three reference implementations follow textbook formulas: `kernel_naive` (powers), `kernel_vandermonde` (S4D)
and `kernel_cauchy` (S4). The layers use `kernel`: it splits a lag ``l = i T + j``, so that two short tables
of powers replace one of length L. The same tables propagate a state through a chunk of a sequence.

Products of products use `exact_matmul`, which never rounds factors to TensorFloat-32.
"""

import math
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sashimi_lib.ssm.discretize import bilinear_dplr
from sashimi_lib.ssm.precision import exact_matmul, tf32_allowed
from sashimi_lib.ssm.systems import DPLR, DiagonalMatrix, DiagonalPlusLowRank, Matrices, Recurrence

POWER_STRIDE = 8  # powers of A that `strided_powers` computes before it multiplies by A^8


def kernel_naive(
    A_bar: Float[Tensor, "H N N"], B_bar: Float[Tensor, "H N"], C: Float[Tensor, "H N"], length: int
) -> Float[Tensor, "H length"]:
    """Compute ``K[l] = C A_bar^l B_bar`` by one matrix-vector product per lag.

    >>> kernel_naive(torch.full((1, 1, 1), 0.5), torch.ones(1, 1), torch.ones(1, 1), 4)
    tensor([[1.0000, 0.5000, 0.2500, 0.1250]])

    Chapter: 3. Fast twin: `kernel`.
    """
    K, x = [], B_bar
    for _ in range(length):
        K.append((C * x).sum(-1))
        x = (A_bar @ x[..., None])[..., 0]
    return torch.stack(K, dim=-1)


def kernel_vandermonde(
    A_bar: Complex[Tensor, "H M"], B_bar: Complex[Tensor, "H M"], C: Complex[Tensor, "H M"], length: int
) -> Float[Tensor, "H length"]:
    """Compute the S4D kernel ``K[l] = 2 Re sum_n C_n B_n A_n^l`` from the full H x M x L table of powers.

    >>> kernel_vandermonde(torch.full((1, 1), 0.5 + 0j), torch.ones(1, 1) + 0j, torch.ones(1, 1) / 2 + 0j, 3)
    tensor([[1.0000, 0.5000, 0.2500]])

    Chapter: 4 (equation vandermonde). Fast twin: `kernel`.
    """
    power = torch.arange(length, device=A_bar.device)
    table = torch.exp(torch.log(A_bar)[..., None] * power)  # (H, M, L): the cost that `kernel` avoids
    return 2 * torch.einsum("hm,hml->hl", C * B_bar, table).real


def kernel_cauchy(system: DPLR, length: int) -> Float[Tensor, "H length"]:
    """Compute the S4 kernel as in the paper: the truncated generating function at the roots of unity, then an
    inverse FFT.

    ``system.C`` is the truncated ``C~ = C (I - A_bar^L)`` (see `truncate`), which holds for one length. With
    ``z = 2 (1 - w) / (1 + w)`` and Cauchy sums ``k_xy = sum dt x y / (z - dt Lambda)`` over both halves of
    the pairs, ``K^(w) = 2 / (1 + w) (k_CB + k_Cp (1 - k_qp)^-1 k_qB)``. At ``w = -1`` factor and z are
    infinite while their quotient is not, so the factor goes inside the sum: ``2 / (1 + w) / (z - a) = 2 / (2
    (1 - w) - a (1 + w))``.

    >>> one, empty = torch.ones(1, 1) + 0j, torch.zeros(1, 1, 0) + 0j
    >>> system = DPLR(-one, empty, empty, one, one / 2, torch.tensor([0.1]))
    >>> kernel_cauchy(system._replace(C=truncate(system, 4)), 4)
    tensor([[0.0952, 0.0862, 0.0780, 0.0705]])

    Chapter: 4 (equation cauchy). Fast twin: `kernel`. Raises ValueError for an eigenvalue of exactly 0.
    """
    if bool((system.Lambda == 0).any()):
        raise ValueError("Lambda must not contain 0, a pole at w = 1 (HiPPO-FouT has one); use `kernel`")
    dt = system.dt[:, None]
    angle = torch.arange(length // 2 + 1, dtype=dt.dtype, device=dt.device) * (-2 * math.pi / length)
    w = torch.polar(torch.ones_like(angle), angle)
    half = (1 + w) / 2
    Lambda = torch.cat([system.Lambda, system.Lambda.conj()], dim=-1)
    cauchy = dt[..., None] / (1 - w - (dt * Lambda)[..., None] * half)  # (H, N, L/2 + 1)
    rows = torch.cat([system.C[..., None], system.q.conj()], -1)
    columns = torch.cat([system.B[..., None], system.p], -1)
    rows, columns = (torch.cat([x, x.conj()], dim=-2) for x in (rows, columns))
    k = torch.einsum("hnx,hny,hnl->hlxy", rows, columns, cauchy)  # every k_xy, times 2 / (1 + w)
    plain = k[..., 1:, :] * half[:, None, None]  # k_qB and k_qp themselves
    I = torch.eye(system.p.shape[-1], dtype=w.dtype, device=w.device)
    correction = k[..., :1, 1:] @ torch.linalg.solve(I - plain[..., 1:], plain[..., :1])
    return torch.fft.irfft((k[..., :1, :1] + correction)[..., 0, 0], n=length)


def truncate(system: DPLR, length: int) -> Complex[Tensor, "*outputs H M"]:
    """Return ``C~ = C (I - A_bar^L)``, which replaces C in the generating function of L terms.

    Chapter: 4. S4 paper, appendix C.3. Inverse: `untruncate`.
    """
    return _complex_C(_one_minus_power(system, length).mT @ system.C_row()[..., None])


def untruncate(system: DPLR, length: int) -> Complex[Tensor, "*outputs H M"]:
    """Return C for a truncated ``C~``; published checkpoints store the truncated one of some length.

    Chapter: 4. Inverse: `truncate`.
    """
    return _complex_C(torch.linalg.solve(_one_minus_power(system, length).mT, system.C_row()[..., None]))


def kernel(
    recurrence: Recurrence, length: int, dtype: torch.dtype | None = None
) -> Float[Tensor, "*outputs H length"]:
    """Compute the kernel of a diagonal or DPLR recurrence without a table of powers of length L.

    ``K[i T + j] = (C A_bar^(iT)) (A_bar^j B)``: the left factor for L/T values of i, the right one for T
    values of j, and one matrix product. Tables are computed by doubling (`krylov`), and beyond 8 rows of the
    left one in strides (`strided_powers`). The first powers are diagonal plus low rank
    (`sashimi_lib.ssm.systems.DiagonalPlusLowRank`), which takes few operations. With the recurrence in
    float64 and a ``dtype`` of float32, powers up to A_bar^(T/2) are squared in float64 and later ones in
    float32, so that the error of any lag is at most that of 2 L/T roundings. The outputs of one state share
    the powers.

    >>> one, empty = torch.ones(1, 1) + 0j, torch.zeros(1, 1, 0) + 0j
    >>> kernel(bilinear_dplr(DPLR(-one, empty, empty, one, one / 2, torch.tensor([0.1]))), 4)
    tensor([[0.0952, 0.0862, 0.0780, 0.0705]])

    Chapter: 4. Slow twins: `kernel_naive`, `kernel_vandermonde`, `kernel_cauchy`. Raises ValueError for
    length < 1.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    T = _block_length(length)
    B, C = (x.to(dtype or x.dtype) for x in (recurrence.B, recurrence.C))
    right, A = krylov(B[:, None], recurrence.A_bar().mT, T)
    A = A.to(C.dtype)
    C_rows = C.reshape(-1, *B.shape).transpose(0, 1)  # (H, outputs, N)
    left = strided_powers(C_rows, exact_matmul(A, A).mT, -(-length // T))
    K = exact_matmul(left, right.mT).unflatten(1, (-1, C_rows.shape[1]))  # (H, L/T, outputs, T)
    return K.permute(2, 0, 1, 3).reshape(*C.shape[:-1], -1)[..., :length]


def krylov(x: Float[Tensor, "H r N"], A: Matrices, length: int) -> tuple[Float[Tensor, "H rows N"], Matrices]:
    """Compute ``[x, x A, x A^2, ..., x A^(length-1)]`` by doubling; return it and the last power of A used.

    For a ``length`` that is a power of two the latter is ``A^(length/2)``. Vectors are rows, so that they and
    the tables of their products are contiguous.

    >>> krylov(torch.ones(1, 1, 1), torch.full((1, 1, 1), 0.5), 4)[0]
    tensor([[[1.0000],
             [0.5000],
             [0.2500],
             [0.1250]]])

    Chapter: 4.
    """
    table, rows = x, x.shape[1]
    while (size := table.shape[1] // rows) < length:
        if size > 1:
            A = exact_matmul(A, A)
        first = table if 2 * size <= length else table[:, : rows * (length - size)]
        table = torch.cat([table, exact_matmul(first, A.to(x.dtype))], dim=1)
    return table, A


def strided_powers(x: Float[Tensor, "H r N"], A: Matrices, length: int) -> Float[Tensor, "H rows N"]:
    """Compute the table of `krylov`, for powers of A that soon are full matrices.

    Squaring a full matrix costs as much as 64 rows. So the table is doubled up to 8 powers, and continued by
    products with ``A^8``.

    >>> strided_powers(torch.ones(1, 1, 1), torch.full((1, 1, 1), 0.5), 20)[0, -1] == 0.5**19
    tensor([True])

    Chapter: 4.
    """
    if length <= POWER_STRIDE or isinstance(A, DiagonalMatrix):
        return krylov(x, A, length)[0]
    rows, A = krylov(x, A, POWER_STRIDE)
    A = exact_matmul(A, A)
    full = A.dense() if isinstance(A, DiagonalPlusLowRank) else A
    return _StridedPowers.apply(rows, full.to(x.dtype), -(-length // POWER_STRIDE))[:, : length * x.shape[1]]


class _StridedPowers(torch.autograd.Function):
    """Compute ``[x, x A, x A^2, ...]`` in sequence; the gradient of A is one product over all strides."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, strides: int) -> Tensor:
        parts = [x]
        with tf32_allowed(False):
            for _ in range(strides - 1):
                parts.append(parts[-1] @ A)
        table = torch.cat(parts, dim=1)
        ctx.rows = x.shape[1]
        ctx.save_for_backward(table, A)
        return table

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        table, A = ctx.saved_tensors
        parts = list(grad.split(ctx.rows, dim=1))
        with tf32_allowed(False):
            for i in reversed(range(1, len(parts))):
                parts[i - 1] = torch.baddbmm(parts[i - 1], parts[i], A.mT)
            return parts[0], table[:, : -ctx.rows].mT @ torch.cat(parts[1:], dim=1), None


def zero_input_response(
    recurrence: Recurrence, state: Float[Tensor, "batch H N"], length: int
) -> Float[Tensor, "batch H length"]:
    """Compute the outputs of a state without further input: ``C A_bar^(l+1) x`` for l = 0 ... length - 1.

    Chapter: 3. Slow twin: `sashimi_lib.ssm.convolution.scan` on an input of zeros.
    """
    T = _block_length(length)
    x, A = state.transpose(0, 1), recurrence.A_bar().mT
    right, A = krylov(exact_matmul(x, A.to(x.dtype)), A, T)  # (H, T batch, N)
    left = strided_powers(recurrence.C[:, None].to(x.dtype), exact_matmul(A, A).mT, -(-length // T))
    y = exact_matmul(left, right.mT).reshape(x.shape[0], -1, x.shape[1])  # (H, time, batch)
    return y[:, :length].permute(2, 0, 1)


def final_state(
    recurrence: Recurrence, u: Float[Tensor, "batch H length"], state: Float[Tensor, "batch H N"]
) -> Float[Tensor, "batch H N"]:
    """Compute the state after an input: ``A_bar^L x + sum_l A_bar^(L-1-l) B u_l``, by blocks and then by a
    tree over blocks.

    Chapter: 3. Slow twin: `sashimi_lib.ssm.convolution.scan`.
    """
    H, N = recurrence.B.shape
    batch, _, length = u.shape
    T = _block_length(length)
    remainder = length % T
    right, A = krylov(recurrence.B[:, None].to(u.dtype), recurrence.A_bar().mT, T)
    start, _ = krylov(state.transpose(0, 1), recurrence.A_bar().mT, remainder + 1)
    start = start[:, -batch:] + exact_matmul(u[..., :remainder].transpose(0, 1), right[:, :remainder].flip(1))
    blocks = u[..., remainder:].reshape(batch, H, -1, T).permute(1, 2, 0, 3).flatten(1, 2)
    x = torch.cat([start, exact_matmul(blocks, right.flip(1))], dim=1).reshape(H, -1, batch, N)
    while (count := x.shape[1]) > 1:  # merge neighbors: advance the older by the length of the newer
        A = exact_matmul(A, A)
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, count % 2, 0))
        older, newer = x[:, 0::2].flatten(1, 2), x[:, 1::2].flatten(1, 2)
        x = (exact_matmul(older, A.to(u.dtype)) + newer).reshape(H, -1, batch, N)
    return x[:, 0].transpose(0, 1)


def _block_length(length: int) -> int:
    """Return T, a power of two of about the square root of the length: both tables are then short."""
    return 2 ** max(1, int(math.log2(length) / 2))


def _one_minus_power(system: DPLR, length: int) -> Tensor:
    A_bar = bilinear_dplr(system).dense()
    I = torch.eye(A_bar.shape[-1], dtype=A_bar.dtype, device=A_bar.device)
    return I - torch.linalg.matrix_power(A_bar, length)


def _complex_C(row: Tensor) -> Tensor:
    """Invert `DPLR.C_row`, for a column vector."""
    real, imag = row[..., 0].chunk(2, dim=-1)
    return torch.complex(real, -imag) / 2
