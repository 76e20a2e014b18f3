"""Structured state-space systems: continuous-time `DPLR` and discrete-time `Recurrence`.

For real signals states come in conjugate pairs, so one of each pair is stored: M = N/2 complex numbers per
vector. In the real coordinates ``[Re x, Im x]`` the same system needs no complex arithmetic.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from sashimi_lib.ssm.precision import exact_matmul

# Float[Tensor, "H N N"], `DiagonalMatrix` or `DiagonalPlusLowRank`: all implement @, .mT and .to.
Matrices = Any


class DPLR(NamedTuple):
    """H continuous-time systems ``x' = A x + B u, y = C x`` with ``A = diag(Lambda) + p q*``, and their step
    sizes ``dt``.

    ``q = -p`` is the Hurwitz form of SaShiMi; rank 0 (``r = 0``) is the diagonal form of S4D. C is not
    conjugated: ``y = 2 Re(sum C_n x_n)``. Systems of several outputs have an axis in front of C.

    >>> one = torch.ones(1, 1) + 0j
    >>> DPLR(-one, one[..., None], -one[..., None], one, one, torch.ones(1)).dense()[0]
    tensor([[[-3.,  0.],
             [ 0., -1.]]])

    Chapter: 4.
    """

    Lambda: Complex[Tensor, "H M"]
    p: Complex[Tensor, "H M r"]
    q: Complex[Tensor, "H M r"]
    B: Complex[Tensor, "H M"]
    C: Complex[Tensor, "*outputs H M"]
    dt: Float[Tensor, " H"]

    def dense(self) -> tuple[Float[Tensor, "H N N"], Float[Tensor, "H N"], Float[Tensor, "*outputs H N"]]:
        """Return A, B and C as dense real matrices and vectors, in the coordinates ``[Re x, Im x]``."""
        A = DiagonalMatrix(self.Lambda.real, self.Lambda.imag).dense() + real_columns(self.p) @ self.q_row()
        return A, real_vector(self.B), self.C_row()

    def q_row(self) -> Float[Tensor, "H r N"]:
        """Return ``q*`` as real rows: summed over a conjugate pair, ``q* x`` is twice a real part."""
        return 2 * real_columns(self.q).mT

    def C_row(self) -> Float[Tensor, "*outputs H N"]:
        """Return C as a real row: ``2 Re(C x) = C_row . [Re x, Im x]``."""
        return 2 * real_vector(self.C.conj())


class DiagonalMatrix(NamedTuple):
    """A complex diagonal matrix ``real + i imag``, acting on real coordinates ``[Re x, Im x]``.

    It equals an N x N matrix of scaled 2 x 2 rotations. A product costs O(N) instead of O(N^2).

    >>> torch.tensor([[[1.0, 0.0]]]) @ DiagonalMatrix(torch.zeros(1, 1), torch.ones(1, 1)).mT  # i * 1 = i
    tensor([[[0., 1.]]])

    Chapter: 4.
    """

    real: Float[Tensor, "H M"]
    imag: Float[Tensor, "H M"]

    def __matmul__(self, other: "DiagonalMatrix") -> "DiagonalMatrix":
        """Multiply by another diagonal matrix."""
        product = torch.complex(*self) * torch.complex(*other)
        return DiagonalMatrix(*torch.view_as_real(product).unbind(-1))

    def __rmatmul__(self, rows: Float[Tensor, "H rows N"]) -> Float[Tensor, "H rows N"]:
        """Multiply row vectors by the matrix; from the right, each 2 x 2 rotation acts as its transpose."""
        return real_vector(complex_vector(rows) * torch.complex(self.real, -self.imag)[:, None])

    def apply(self, x: Float[Tensor, "batch H N"]) -> Float[Tensor, "batch H N"]:
        """Multiply the matrix by a batch of states, with few passes over memory."""
        real, imag = x.chunk(2, dim=-1)
        return torch.cat(
            [
                torch.addcmul(self.real * real, self.imag, imag, value=-1),
                torch.addcmul(self.imag * real, self.real, imag),
            ],
            dim=-1,
        )

    @property
    def mT(self) -> "DiagonalMatrix":
        """The transpose, which conjugates the diagonal."""
        return DiagonalMatrix(self.real, -self.imag)

    def to(self, dtype: torch.dtype) -> "DiagonalMatrix":
        """Convert to a dtype."""
        return DiagonalMatrix(self.real.to(dtype), self.imag.to(dtype))

    def dense(self) -> Float[Tensor, "H N N"]:
        """Return dense real matrices."""
        real, imag = torch.diag_embed(self.real), torch.diag_embed(self.imag)
        return torch.cat([torch.cat([real, -imag], -1), torch.cat([imag, real], -1)], -2)


class DiagonalPlusLowRank(NamedTuple):
    """Matrices ``modes + left^T right``. Squaring doubles the rank, so their first powers have this form too.

    A product whose rank would exceed N/2 is a dense matrix.

    >>> one = torch.ones(1, 1, 4)
    >>> identity = DiagonalMatrix(torch.ones(1, 2), torch.zeros(1, 2))
    >>> A = DiagonalPlusLowRank(identity, one, one)  # plus a matrix of ones
    >>> square, dense = A @ A, A.dense()
    >>> square.left.shape, (A @ square).shape, torch.equal(A @ square, dense @ dense @ dense)
    (torch.Size([1, 2, 4]), torch.Size([1, 4, 4]), True)

    Chapter: 4.
    """

    modes: DiagonalMatrix
    left: Float[Tensor, "H r N"]
    right: Float[Tensor, "H r N"]

    def __matmul__(self, other: "DiagonalPlusLowRank") -> Any:
        """Multiply by other matrices of this form."""
        rank, N = self.left.shape[1] + other.left.shape[1], self.left.shape[2]
        if rank > N // 2:
            return exact_matmul(self.dense(), other.dense())
        left = [self.left, other.left @ self.modes.mT]
        right = [self.right @ other, other.right]
        return DiagonalPlusLowRank(self.modes @ other.modes, torch.cat(left, dim=1), torch.cat(right, dim=1))

    def __rmatmul__(self, rows: Float[Tensor, "H rows N"]) -> Float[Tensor, "H rows N"]:
        """Multiply row vectors by the matrices."""
        return rows @ self.modes + exact_matmul(exact_matmul(rows, self.left.mT), self.right)

    @property
    def mT(self) -> "DiagonalPlusLowRank":
        """The transpose."""
        return DiagonalPlusLowRank(self.modes.mT, self.right, self.left)

    def to(self, dtype: torch.dtype) -> "DiagonalPlusLowRank":
        """Convert to a dtype."""
        return DiagonalPlusLowRank(self.modes.to(dtype), self.left.to(dtype), self.right.to(dtype))

    def dense(self) -> Float[Tensor, "H N N"]:
        """Return dense matrices."""
        return self.modes.dense() + exact_matmul(self.left.mT, self.right)


class Recurrence(NamedTuple):
    """H discrete-time systems ``x <- A_bar x + B_bar u, y = C x`` in real arithmetic, with
    ``A_bar = modes + left right^T``.

    Rank 0 (empty left and right) is the diagonal case. No tensor is complex, so a step can be compiled.

    Chapters: 3 (the recurrence) and 4 (its structure).
    """

    modes: DiagonalMatrix
    left: Float[Tensor, "H N r"]
    right: Float[Tensor, "H N r"]
    B: Float[Tensor, "H N"]
    C: Float[Tensor, "*outputs H N"]

    def to(self, dtype: torch.dtype) -> "Recurrence":
        """Convert to a dtype."""
        return Recurrence(self.modes.to(dtype), *(part.to(dtype) for part in self[1:]))

    def step(self, u: Float[Tensor, "batch H"], x: Float[Tensor, "batch H N"]) -> Float[Tensor, "batch H N"]:
        """Return the next state: the diagonal part, the low-rank term and the input, in O(N) per channel."""
        next_x = torch.addcmul(self.modes.apply(x), self.B, u[..., None])
        for left, right in zip(self.left.unbind(-1), self.right.unbind(-1), strict=True):
            next_x = torch.addcmul(next_x, left, torch.linalg.vecdot(right, x)[..., None])
        return next_x

    def A_bar(self) -> Matrices:
        """Return A_bar as a structured matrix: diagonal where the rank is 0."""
        if self.left.shape[-1] == 0:
            return self.modes
        return DiagonalPlusLowRank(self.modes, self.left.mT, self.right.mT)

    def dense(self) -> Float[Tensor, "H N N"]:
        """Return ``A_bar`` as dense real matrices."""
        return self.A_bar().dense()


def real_vector(z: Complex[Tensor, "*H M"]) -> Float[Tensor, "*H N"]:
    """Return the real coordinates ``[Re z, Im z]``.

    >>> real_vector(torch.tensor([1 + 2j]))
    tensor([1., 2.])

    Chapter: 4.
    """
    return torch.view_as_real(z.resolve_conj()).mT.flatten(-2)


def complex_vector(x: Float[Tensor, "*H N"]) -> Complex[Tensor, "*H M"]:
    """Return the complex numbers of the real coordinates ``[Re z, Im z]``.

    >>> complex_vector(torch.tensor([1.0, 2.0]))
    tensor([1.+2.j])

    Chapter: 4. Inverse: `real_vector`.
    """
    return torch.view_as_complex(x.unflatten(-1, (2, -1)).mT.contiguous())


def real_columns(z: Complex[Tensor, "*H M r"]) -> Float[Tensor, "*H N r"]:
    """Apply `real_vector` to every column.

    >>> real_columns(torch.tensor([[1 + 2j]]))
    tensor([[1.],
            [2.]])

    Chapter: 4.
    """
    return real_vector(z.mT).mT
