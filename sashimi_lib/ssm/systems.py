"""The structured systems that everything else in ``ssm`` speaks of: continuous `DPLR`, discrete `Recurrence`.

Real signals give states in conjugate pairs, so one of each pair is kept: M = N/2 complex numbers a vector. In
real coordinates, ``[Re x, Im x]``, the same system needs no complex arithmetic at all.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from sashimi_lib.ssm.precision import exact_matmul

Matrices = Any  # Float[Tensor, "H N N"], or `DiagonalMatrix` or `DiagonalPlusLowRank` in its place: all know @, .mT and .to


class DPLR(NamedTuple):
    """H continuous systems ``x' = A x + B u, y = C x`` with ``A = diag(Lambda) + p q*``, and their steps
    ``dt``.

    ``q = -p`` is the Hurwitz form of SaShiMi; rank 0 (``r = 0``) is the diagonal form of S4D. C is not
    conjugated: ``y = 2 Re(sum C_n x_n)``. More than one reading C of the same states goes in front.

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
    C: Complex[Tensor, "*readings H M"]
    dt: Float[Tensor, " H"]

    def dense(self) -> tuple[Float[Tensor, "H N N"], Float[Tensor, "H N"], Float[Tensor, "*readings H N"]]:
        """A, B and C as full real matrices and vectors, in the coordinates ``[Re x, Im x]``."""
        A = DiagonalMatrix(self.Lambda.real, self.Lambda.imag).dense() + real_columns(self.p) @ self.q_row()
        return A, real_vector(self.B), self.C_row()

    def q_row(self) -> Float[Tensor, "H r N"]:
        """``q*`` as a real row: summed over both halves of a pair, ``q* x`` is twice a real part."""
        return 2 * real_columns(self.q).mT

    def C_row(self) -> Float[Tensor, "*readings H N"]:
        """C as a real row: ``2 Re(C x) = C_row . [Re x, Im x]``."""
        return 2 * real_vector(self.C.conj())


class DiagonalMatrix(NamedTuple):
    """A diagonal matrix of complex numbers ``real + i imag``, acting on real coordinates ``[Re x, Im x]``.

    Behaves like the N x N matrix of 2 x 2 rotations that it stands for, at O(N) instead of O(N^2) a product.

    >>> torch.tensor([[[1.0, 0.0]]]) @ DiagonalMatrix(torch.zeros(1, 1), torch.ones(1, 1)).mT  # i * 1 = i
    tensor([[[0., 1.]]])

    Chapter: 4.
    """

    real: Float[Tensor, "H M"]
    imag: Float[Tensor, "H M"]

    def __matmul__(self, other: "DiagonalMatrix") -> "DiagonalMatrix":
        """The product with other modes (powers)."""
        product = torch.complex(*self) * torch.complex(*other)
        return DiagonalMatrix(*torch.view_as_real(product).unbind(-1))

    def __rmatmul__(self, rows: Float[Tensor, "H rows N"]) -> Float[Tensor, "H rows N"]:
        """The product of rows with the matrix: each mode turns them backwards, as a transpose does."""
        return real_vector(complex_vector(rows) * torch.complex(self.real, -self.imag)[:, None])

    def apply(self, x: Float[Tensor, "batch H N"]) -> Float[Tensor, "batch H N"]:
        """The product with a batch of states, in as few passes over memory as it takes."""
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
        """The transpose: a rotation backwards."""
        return DiagonalMatrix(self.real, -self.imag)

    def to(self, dtype: torch.dtype) -> "DiagonalMatrix":
        """The same modes in another precision."""
        return DiagonalMatrix(self.real.to(dtype), self.imag.to(dtype))

    def dense(self) -> Float[Tensor, "H N N"]:
        """The full real matrices."""
        real, imag = torch.diag_embed(self.real), torch.diag_embed(self.imag)
        return torch.cat([torch.cat([real, -imag], -1), torch.cat([imag, real], -1)], -2)


class DiagonalPlusLowRank(NamedTuple):
    """Matrices ``modes + left^T right``, whose powers stay so for a while: the rank doubles when they are
    squared. Once it has come to N/2, a product is made of full matrices.

    >>> one = torch.ones(1, 1, 4)
    >>> A = DiagonalPlusLowRank(DiagonalMatrix(torch.ones(1, 2), torch.zeros(1, 2)), one, one)  # the identity and ones everywhere
    >>> square = A @ A
    >>> square.left.shape, (A @ square).shape, bool((A @ square == A.dense() @ A.dense() @ A.dense()).all())
    (torch.Size([1, 2, 4]), torch.Size([1, 4, 4]), True)

    Chapter: 4.
    """

    modes: DiagonalMatrix
    left: Float[Tensor, "H r N"]
    right: Float[Tensor, "H r N"]

    def __matmul__(self, other: "DiagonalPlusLowRank") -> Any:
        """The product with other such matrices."""
        rank, N = self.left.shape[1] + other.left.shape[1], self.left.shape[2]
        if rank > N // 2:
            return exact_matmul(self.dense(), other.dense())
        left = [self.left, other.left @ self.modes.mT]
        right = [self.right @ other, other.right]
        return DiagonalPlusLowRank(self.modes @ other.modes, torch.cat(left, dim=1), torch.cat(right, dim=1))

    def __rmatmul__(self, rows: Float[Tensor, "H rows N"]) -> Float[Tensor, "H rows N"]:
        """The product of rows with the matrices."""
        return rows @ self.modes + exact_matmul(exact_matmul(rows, self.left.mT), self.right)

    @property
    def mT(self) -> "DiagonalPlusLowRank":
        """The transpose."""
        return DiagonalPlusLowRank(self.modes.mT, self.right, self.left)

    def to(self, dtype: torch.dtype) -> "DiagonalPlusLowRank":
        """The same matrices in another precision."""
        return DiagonalPlusLowRank(self.modes.to(dtype), self.left.to(dtype), self.right.to(dtype))

    def dense(self) -> Float[Tensor, "H N N"]:
        """The full matrices."""
        return self.modes.dense() + exact_matmul(self.left.mT, self.right)


class Recurrence(NamedTuple):
    """H discrete systems ``x <- A_bar x + B_bar u, y = C x`` in real numbers, ``A_bar = modes + left
    right^T``.

    Rank 0 (empty left and right) is the diagonal case. Nothing here is complex, so a step compiles anywhere.

    Chapters: 3 (the recurrence) and 4 (its structure).
    """

    modes: DiagonalMatrix
    left: Float[Tensor, "H N r"]
    right: Float[Tensor, "H N r"]
    B: Float[Tensor, "H N"]
    C: Float[Tensor, "*readings H N"]

    def to(self, dtype: torch.dtype) -> "Recurrence":
        """The same recurrence in another precision."""
        return Recurrence(self.modes.to(dtype), *(part.to(dtype) for part in self[1:]))

    def step(self, u: Float[Tensor, "batch H"], x: Float[Tensor, "batch H N"]) -> Float[Tensor, "batch H N"]:
        """The next state, in O(N) a channel: rotate each mode, add the low-rank term and the input."""
        after = torch.addcmul(self.modes.apply(x), self.B, u[..., None])
        for left, right in zip(self.left.unbind(-1), self.right.unbind(-1), strict=True):
            after = torch.addcmul(after, left, torch.linalg.vecdot(right, x)[..., None])
        return after

    def A_bar(self) -> Matrices:
        """What powers are taken of: the modes alone where they are all there is."""
        return (
            self.modes
            if self.left.shape[-1] == 0
            else DiagonalPlusLowRank(self.modes, self.left.mT, self.right.mT)
        )

    def dense(self) -> Float[Tensor, "H N N"]:
        """``A_bar`` as full real matrices."""
        return self.A_bar().dense()


def real_vector(z: Complex[Tensor, "*H M"]) -> Float[Tensor, "*H N"]:
    """``[Re z, Im z]``: the real coordinates of one of each conjugate pair.

    >>> real_vector(torch.tensor([1 + 2j]))
    tensor([1., 2.])

    Chapter: 4.
    """
    return torch.view_as_real(z.resolve_conj()).mT.flatten(-2)


def complex_vector(x: Float[Tensor, "*H N"]) -> Complex[Tensor, "*H M"]:
    """The complex numbers that real coordinates stand for.

    >>> complex_vector(torch.tensor([1.0, 2.0]))
    tensor([1.+2.j])

    Chapter: 4. Inverse: `real_vector`.
    """
    return torch.view_as_complex(x.unflatten(-1, (2, -1)).mT.contiguous())


def real_columns(z: Complex[Tensor, "*H M r"]) -> Float[Tensor, "*H N r"]:
    """`real_vector` of every column.

    >>> real_columns(torch.tensor([[1 + 2j]]))
    tensor([[1.],
            [2.]])

    Chapter: 4.
    """
    return real_vector(z.mT).mT
