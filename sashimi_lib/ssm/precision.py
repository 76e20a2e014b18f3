"""Products of matrices in full float32, where a GPU may round the others to TensorFloat-32 (chapter 10).

TensorFloat-32 keeps 10 bits of a factor. A layer that mixes channels learns as well with them; a kernel,
which multiplies powers of powers, does not bear it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@contextmanager
def tf32_allowed(allowed: bool) -> Iterator[None]:
    """Inside ``with``, products in float32 may round their factors to TensorFloat-32, or none may: those of
    matrices, and cuDNN's convolutions and recurrent layers, for which PyTorch allows it unless told not to.

    >>> with tf32_allowed(True):
    ...     torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    ('high', True)

    Chapter: 10.
    """
    before = list(_settings())
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    for backend in _backends():  # the line above may leave "none", which asks the setting of all backends
        backend.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        for restore in before:
            restore()


@contextmanager
def cudnn_as_matmul() -> Iterator[None]:
    """Inside ``with``, cuDNN's convolutions and recurrent layers round factors only where products of
    matrices in float32 do: by PyTorch's defaults the first may, the second may not.

    >>> with cudnn_as_matmul():
    ...     torch.backends.cudnn.allow_tf32
    False

    What generates runs so, and what judges runs in full float32; a module that is called by itself follows
    PyTorch's settings, as every module does. Chapter: 10.
    """
    with tf32_allowed(_rounded()):
        yield


def _settings() -> Iterator[Callable[[], None]]:
    """What holds now, as calls that make it hold again, in this order.

    PyTorch has two interfaces for it, the second since 2.9. Writing by the first writes the second too, but
    not the other way round; and after that, reading by the first raises RuntimeError.
    """
    with suppress(RuntimeError):
        yield partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    with suppress(RuntimeError):
        yield partial(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    for backend in _backends():
        yield partial(setattr, backend, "fp32_precision", backend.fp32_precision)


def _backends() -> list[Any]:
    """Where the second interface keeps the precision of products in float32; empty in versions without it."""
    names: Any = torch.backends
    if not hasattr(names, "fp32_precision"):
        return []
    return [names.cuda.matmul, names.mkldnn.matmul, names.cudnn.conv, names.cudnn.rnn]


def autocast_off(device: torch.device) -> AbstractContextManager[Any]:
    """Inside ``with``, nothing is computed in half precision: for what does not bear it, under autocast too.

    >>> with torch.autocast("cpu", torch.bfloat16), autocast_off(torch.device("cpu")):
    ...     (torch.eye(2) @ torch.eye(2)).dtype
    torch.float32

    On a device without autocast, such as "meta", there is nothing to turn off. Chapter: 10.
    """
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def exact_matmul(a: Any, b: Any) -> Any:
    """``a @ b`` of factors that are not rounded, and so are the products of its gradients.

    Both are tensors with the same axes before the last two, or a structured matrix of
    `sashimi_lib.ssm.systems` stands last, or two such.

    >>> with tf32_allowed(True):
    ...     exact_matmul(torch.eye(2), torch.ones(2, 1))
    tensor([[1.],
            [1.]])

    Chapter: 10.
    """
    return _Exact.apply(a, b) if isinstance(b, Tensor) and _rounded() else a @ b


def _rounded() -> bool:
    """Whether a product of matrices in float32 may round its factors."""
    backends = _backends()[:2]  # those of matrices
    if not backends:
        return torch.get_float32_matmul_precision() != "highest"
    return any(backend.fp32_precision not in ("ieee", "none") for backend in backends)


class _Exact(torch.autograd.Function):
    """Gradients are taken later and elsewhere: a ``with`` round the product would not hold for theirs."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        with tf32_allowed(False):
            return a @ b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        with tf32_allowed(False):
            return (
                grad @ b.mT if ctx.needs_input_grad[0] else None,
                a.mT @ grad if ctx.needs_input_grad[1] else None,
            )
