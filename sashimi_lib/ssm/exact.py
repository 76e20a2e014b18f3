"""Products of matrices in full float32, where a GPU may round the others to TensorFloat-32 (chapter 10).

TensorFloat-32 keeps 10 bits of a factor. A layer that mixes channels learns as well with them; a kernel,
which multiplies powers of powers, does not bear it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@contextmanager
def rounding_factors(allowed: bool) -> Iterator[None]:
    """Inside ``with``, products in float32 may round their factors to TensorFloat-32, or none may.

    >>> with rounding_factors(True):
    ...     torch.get_float32_matmul_precision()
    'high'

    Chapter: 10.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def exact(a: Any, b: Any) -> Any:
    """``a @ b`` of factors that are not rounded, and so are the products of its gradients.

    Both are tensors with the same axes before the last two, or a structured matrix of
    `sashimi_lib.ssm.systems` stands last, or two such.

    >>> with rounding_factors(True):
    ...     exact(torch.eye(2), torch.ones(2, 1))
    tensor([[1.],
            [1.]])

    Chapter: 10.
    """
    rounded = torch.get_float32_matmul_precision() != "highest"
    return _Exact.apply(a, b) if rounded and isinstance(b, Tensor) else a @ b


class _Exact(torch.autograd.Function):
    """Gradients are taken later and elsewhere: a ``with`` round the product would not hold for theirs."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        with rounding_factors(False):
            return a @ b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        with rounding_factors(False):
            return (
                grad @ b.mT if ctx.needs_input_grad[0] else None,
                a.mT @ grad if ctx.needs_input_grad[1] else None,
            )
