"""Two ways to run a linear time-invariant system: all at once by convolution, step by step by recurrence."""

from typing import Any

import torch
from jaxtyping import Float
from scipy.fft import next_fast_len
from torch import Tensor
from torch.autograd.function import once_differentiable

from sashimi_lib.ssm.precision import autocast_off


def causal_conv(
    u: Float[Tensor, "*batch length"], K: Float[Tensor, "*H lags"], D: Float[Tensor, "*H"] | None = None
) -> Float[Tensor, "*batch length"]:
    """``y[t] = sum_{l <= t} K[l] u[t - l] + D u[t]`` by FFT, in O(L log L): both padded so that nothing wraps
    round.

    Computed in float32 at least, also under autocast: FFTs in half precision lose the quiet parts.

    >>> causal_conv(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.5, 0.25])).round(decimals=4)
    tensor([1.0000, 0.5000, 2.2500])

    Chapter: 3. Slow twin: `causal_conv_naive`. Raises ValueError where K is shorter than u, and for no input.
    """
    return _circular_conv(u, K[..., : _length(u, K=K)], D)


def bidirectional_conv(
    u: Float[Tensor, "*batch length"],
    past: Float[Tensor, "*H lags"],
    future: Float[Tensor, "*H later"],
    D: Float[Tensor, "*H"] | None = None,
) -> Float[Tensor, "*batch length"]:
    """``y[t] = sum_{m <= t} past[t - m] u[m] + sum_{m > t} future[m - t - 1] u[m] + D u[t]``, by the FFTs of
    one side.

    Both kernels lie on one circle: the past's from its start onwards, the future's from its end backwards.

    >>> past, future = torch.tensor([1.0, 0.5, 0.25]), torch.tensor([10.0, 20.0, 0.0])
    >>> bidirectional_conv(torch.tensor([1.0, 0.0, 2.0]), past, future).round(decimals=4)
    tensor([41.0000, 20.5000,  2.2500])

    Chapter: 9. Slow twin: `bidirectional_conv_naive`. Raises ValueError as `causal_conv` does.
    """
    length = _length(u, past=past, future=future)
    gap = past.new_zeros(*past.shape[:-1], _fft_size(length) - 2 * length + 1)
    circle = torch.cat([past[..., :length], gap, future[..., : length - 1].flip(-1)], dim=-1)
    return _circular_conv(u, circle, D)


def bidirectional_conv_naive(
    u: Float[Tensor, "*batch length"],
    past: Float[Tensor, "*H lags"],
    future: Float[Tensor, "*H later"],
    D: Float[Tensor, "*H"] | None = None,
) -> Float[Tensor, "*batch length"]:
    """The same sums, lag by lag: O(L^2).

    >>> past, future = torch.tensor([1.0, 0.5, 0.25]), torch.tensor([10.0, 20.0, 0.0])
    >>> bidirectional_conv_naive(torch.tensor([1.0, 0.0, 2.0]), past, future)
    tensor([41.0000, 20.5000,  2.2500])

    Chapter: 9. Fast twin: `bidirectional_conv`. Raises what that raises.
    """
    length = _length(u, past=past, future=future)
    y = causal_conv_naive(u, past, D)
    for lag in range(length - 1):
        y[..., : -lag - 1] += future[..., lag, None] * u[..., lag + 1 :]
    return y


def _fft_size(length: int) -> int:
    """How many samples make a circle on which nothing meets what it should not."""
    return int(next_fast_len(2 * length - 1, real=True))


def _circular_conv(u: Tensor, K: Tensor, D: Tensor | None) -> Tensor:
    with autocast_off(u.device):
        wide = u.to(torch.promote_types(u.dtype, torch.float32))
        wide = wide.expand(*torch.broadcast_shapes(u.shape[:-1], K.shape[:-1]), -1)
        return _FFTConv.apply(wide, K.to(wide.dtype), D if D is None else D.to(wide.dtype)).to(u.dtype)


class _FFTConv(torch.autograd.Function):
    """A gradient of its own: both gradients are correlations, so real FFTs and the kept spectra do.

    PyTorch's derivative of a real FFT is a complex one, of twice the cost. And gradients of K from all
    sequences of a batch are summed as spectra, before one inverse FFT. D stays out of the spectra, whose
    rounding errors are spread over all time; what D gets is what lag 0 of K gets.

    Spectra are large, and new memory is slow: what is not wanted any more is written over. They are kept for
    the gradient: to keep u and transform it again would take half the memory, and a third more time.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, K: Tensor, D: Tensor | None) -> Tensor:
        length, n = u.shape[-1], _fft_size(u.shape[-1])
        u = torch.nn.functional.pad(u, (0, n - length))
        U, F = torch.fft.rfft(u), torch.fft.rfft(K, n)
        ctx.n, ctx.lags = n, K.shape[-1]
        ctx.save_for_backward(U, F, D)
        y = torch.fft.irfft(U * F, n)[..., :length]
        # In memory of its own, or what is kept of y would hold on to its whole circle.
        return y.contiguous() if D is None else torch.addcmul(y, D[..., None], u[..., :length])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        U, F, D = ctx.saved_tensors
        length = grad.shape[-1]
        grad = torch.nn.functional.pad(grad, (0, ctx.n - length))
        G = torch.fft.rfft(grad).conj_physical_()  # a conjugate turns products into correlations
        grad_u = grad_K = grad_D = None
        if ctx.needs_input_grad[0]:
            grad_u = torch.fft.irfft((G * F).conj_physical_(), ctx.n)[..., :length]
            if D is not None:
                grad_u.addcmul_(D[..., None], grad[..., :length])
        if any(ctx.needs_input_grad[1:]):
            alone = G.numel() == F.numel()  # a single sequence: nothing to sum
            G = G.mul_(U).reshape(F.shape) if alone else G.mul_(U).sum_to_size(F.shape)
            grad_K = torch.fft.irfft(G.conj_physical_(), ctx.n)[..., : ctx.lags]
            # A copy: gradients are summed in place, and each must have memory of its own.
            grad_D = grad_K[..., 0].clone() if ctx.needs_input_grad[2] else None
        return grad_u, grad_K, grad_D


def causal_conv_naive(
    u: Float[Tensor, "*batch length"], K: Float[Tensor, "*H lags"], D: Float[Tensor, "*H"] | None = None
) -> Float[Tensor, "*batch length"]:
    """The same sum, written as a sum over lags: O(L^2).

    >>> causal_conv_naive(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.5, 0.25]))
    tensor([1.0000, 0.5000, 2.2500])

    Chapter: 3. Fast twin: `causal_conv`. Raises what that raises.
    """
    length = _length(u, K=K)
    y = torch.zeros_like(u) if D is None else D[..., None] * u
    for lag in range(length):
        y[..., lag:] += K[..., lag, None] * u[..., : length - lag]
    return y


def scan(
    A_bar: Float[Tensor, "H N N"],
    B_bar: Float[Tensor, "H N"],
    C: Float[Tensor, "H N"],
    u: Float[Tensor, "batch H length"],
    state: Float[Tensor, "batch H N"] | None = None,
) -> tuple[Float[Tensor, "batch H length"], Float[Tensor, "batch H N"]]:
    """The recurrence ``x <- A_bar x + B_bar u``, ``y = C x``, sample by sample, from ``state`` or from rest.

    >>> half, one = torch.full((1, 1, 1), 0.5), torch.ones(1, 1)
    >>> scan(half, one, one, torch.tensor([[[1.0, 0.0, 2.0]]]))[0]
    tensor([[[1.0000, 0.5000, 2.2500]]])

    Chapter: 3. Fast twins: `causal_conv` of `sashimi_lib.ssm.kernels.kernel`; `final_state` for the state.
    """
    x = u.new_zeros(u.shape[0], *B_bar.shape) if state is None else state
    y = []
    for u_t in u.unbind(-1):
        x = torch.einsum("hnm,bhm->bhn", A_bar, x) + B_bar * u_t[..., None]
        y.append((C * x).sum(-1))
    return torch.stack(y, dim=-1), x


def _length(u: Tensor, **kernels: Tensor) -> int:
    length = u.shape[-1]
    if length == 0:
        raise ValueError("u must hold at least one sample, got length 0")
    for name, K in kernels.items():
        if K.shape[-1] < length:
            raise ValueError(f"{name} must be at least as long as u ({length} samples), got {K.shape[-1]}")
    return length
