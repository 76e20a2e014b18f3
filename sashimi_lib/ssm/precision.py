"""Numerical precision: TensorFloat-32, and matrix products and regions that need full float32 (chapter 10).

TensorFloat-32 rounds factors to 10 bits. That does not hurt the training of linear layers, but it does hurt
SSM kernels, which multiply powers of powers.
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
    """Inside ``with``, allow or forbid TensorFloat-32 in float32 matrix products and in cuDNN.

    By default PyTorch allows it in cuDNN's convolutions and recurrent layers alone.

    >>> with tf32_allowed(True):
    ...     torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    ('high', True)

    Chapter: 10.
    """
    restorers = list(_restorers())
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    for backend in _backends():  # the line above may set "none", which inherits from all backends
        backend.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        for restore in restorers:
            restore()


@contextmanager
def cudnn_as_matmul() -> Iterator[None]:
    """Inside ``with``, allow TensorFloat-32 in cuDNN only where float32 matrix products may use it.

    By PyTorch's defaults cuDNN may use it, and matrix products may not.

    >>> with cudnn_as_matmul():
    ...     torch.backends.cudnn.allow_tf32
    False

    Generation runs with this setting, and evaluation in full float32. A module that is called on its own
    follows PyTorch's settings. Chapter: 10.
    """
    with tf32_allowed(_tf32_in_matmul()):
        yield


def _restorers() -> Iterator[Callable[[], None]]:
    """Return functions that restore the current settings, to be called in this order.

    PyTorch has two interfaces for them, the second since 2.9. Writing to the first also writes to the second,
    but not vice versa; after writing to the second, reading the first raises RuntimeError.
    """
    with suppress(RuntimeError):
        yield partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    with suppress(RuntimeError):
        yield partial(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    for backend in _backends():
        yield partial(setattr, backend, "fp32_precision", backend.fp32_precision)


def _backends() -> list[Any]:
    """Return the objects that hold the settings of the second interface; none in versions without it."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return []
    return [backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn]


def autocast_off(device: torch.device) -> AbstractContextManager[Any]:
    """Inside ``with``, disable autocast, for operations that need full precision.

    >>> with torch.autocast("cpu", torch.bfloat16), autocast_off(torch.device("cpu")):
    ...     (torch.eye(2) @ torch.eye(2)).dtype
    torch.float32

    On a device without autocast, such as "meta", it does nothing. Chapter: 10.
    """
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def cpu_has_bfloat16() -> bool:
    """Return whether the CPU has instructions for matrix products in bfloat16 (AVX512-BF16 or AMX), which are
    faster than those in float32. Other CPUs emulate bfloat16, slowly.

    False where PyTorch is too old to tell. Chapter: 10.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def exact_matmul(a: Any, b: Any) -> Any:
    """Compute ``a @ b`` and its gradients without TensorFloat-32.

    Both are tensors with the same batch axes, or b is a structured matrix of `sashimi_lib.ssm.systems`, or
    both are.

    >>> with tf32_allowed(True):
    ...     exact_matmul(torch.eye(2), torch.ones(2, 1))
    tensor([[1.],
            [1.]])

    Chapter: 10.
    """
    return _ExactMatmul.apply(a, b) if isinstance(b, Tensor) and _tf32_in_matmul() else a @ b


def _tf32_in_matmul() -> bool:
    """Return whether float32 matrix products may use TensorFloat-32."""
    backends = _backends()[:2]  # those of matrix products
    if not backends:
        return torch.get_float32_matmul_precision() != "highest"
    return any(backend.fp32_precision not in ("ieee", "none") for backend in backends)


class _ExactMatmul(torch.autograd.Function):
    """A matrix product without TensorFloat-32.

    The backward pass runs outside of any ``with`` around the product, so it needs one of its own.
    """

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
