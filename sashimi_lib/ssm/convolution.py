"""Linear time-invariant systems over a sequence: convolution by FFT, and the recurrence."""

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
    """Compute ``y[t] = sum_{l <= t} K[l] u[t - l] + D u[t]`` by FFT, in O(L log L).

    Both are padded, so that the convolution is linear and not circular. It is computed in float32 or float64,
    also under autocast: FFTs in half precision lose the quiet parts of a signal.

    >>> causal_conv(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.5, 0.25])).round(decimals=4)
    tensor([1.0000, 0.5000, 2.2500])

    Chapter: 3. Slow twin: `causal_conv_naive`. Raises ValueError where K is shorter than u, and for an
    empty u.
    """
    return _circular_conv(u, K[..., : _length(u, K=K)], D)


def bidirectional_conv(
    u: Float[Tensor, "*batch length"],
    causal: Float[Tensor, "*H lags"],
    anticausal: Float[Tensor, "*H leads"],
    D: Float[Tensor, "*H"] | None = None,
) -> Float[Tensor, "*batch length"]:
    """Compute a convolution with a causal and an anticausal kernel, at the cost of one:

    ``y[t] = sum_{m <= t} causal[t - m] u[m] + sum_{m > t} anticausal[m - t - 1] u[m] + D u[t]``.

    Both kernels share one circular buffer: the causal one runs forwards from its start, the anticausal one
    backwards from its end.

    >>> causal, anticausal = torch.tensor([1.0, 0.5, 0.25]), torch.tensor([10.0, 20.0, 0.0])
    >>> bidirectional_conv(torch.tensor([1.0, 0.0, 2.0]), causal, anticausal).round(decimals=4)
    tensor([41.0000, 20.5000,  2.2500])

    Chapter: 9. Slow twin: `bidirectional_conv_naive`. Raises ValueError as `causal_conv` does.
    """
    length = _length(u, causal=causal, anticausal=anticausal)
    gap = causal.new_zeros(*causal.shape[:-1], _fft_size(length) - 2 * length + 1)
    K = torch.cat([causal[..., :length], gap, anticausal[..., : length - 1].flip(-1)], dim=-1)
    return _circular_conv(u, K, D)


def bidirectional_conv_naive(
    u: Float[Tensor, "*batch length"],
    causal: Float[Tensor, "*H lags"],
    anticausal: Float[Tensor, "*H leads"],
    D: Float[Tensor, "*H"] | None = None,
) -> Float[Tensor, "*batch length"]:
    """Compute `bidirectional_conv` as a sum over lags, in O(L^2).

    >>> causal, anticausal = torch.tensor([1.0, 0.5, 0.25]), torch.tensor([10.0, 20.0, 0.0])
    >>> bidirectional_conv_naive(torch.tensor([1.0, 0.0, 2.0]), causal, anticausal)
    tensor([41.0000, 20.5000,  2.2500])

    Chapter: 9. Fast twin: `bidirectional_conv`, which raises the same errors.
    """
    length = _length(u, causal=causal, anticausal=anticausal)
    y = causal_conv_naive(u, causal, D)
    for lag in range(length - 1):
        y[..., : -lag - 1] += anticausal[..., lag, None] * u[..., lag + 1 :]
    return y


def _fft_size(length: int) -> int:
    """Return an efficient FFT size at which two sequences of a length convolve without wrap-around."""
    return int(next_fast_len(2 * length - 1, real=True))


def _circular_conv(u: Tensor, K: Tensor, D: Tensor | None) -> Tensor:
    with autocast_off(u.device):
        dtype = torch.promote_types(u.dtype, torch.float32)
        x = u.to(dtype).expand(*torch.broadcast_shapes(u.shape[:-1], K.shape[:-1]), -1)
        return _FFTConv.apply(x, K.to(dtype), D if D is None else D.to(dtype)).to(u.dtype)


class _FFTConv(torch.autograd.Function):
    """FFT convolution with a custom gradient: both gradients are correlations, by real FFTs of saved spectra.

    PyTorch's derivative of a real FFT is a complex FFT, of twice the cost. Gradients of K from all sequences
    of a batch are summed as spectra, before one inverse FFT. D is applied outside of the spectra, whose
    rounding errors spread over all samples; its gradient equals that of lag 0 of K.

    Spectra are large and allocation is slow, so they are overwritten once they are not needed. They are saved
    for the backward pass: saving u and transforming it again would take half the memory and a third more
    time.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, K: Tensor, D: Tensor | None) -> Tensor:
        length, n = u.shape[-1], _fft_size(u.shape[-1])
        u = torch.nn.functional.pad(u, (0, n - length))
        U, F = torch.fft.rfft(u), torch.fft.rfft(K, n)
        ctx.n, ctx.lags = n, K.shape[-1]
        ctx.save_for_backward(U, F, D)
        y = torch.fft.irfft(U * F, n)[..., :length]
        # A copy: a view would keep the padded buffer alive.
        return y.contiguous() if D is None else torch.addcmul(y, D[..., None], u[..., :length])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        U, F, D = ctx.saved_tensors
        length = grad.shape[-1]
        grad = torch.nn.functional.pad(grad, (0, ctx.n - length))
        G = torch.fft.rfft(grad).conj_physical_()  # products with a conjugate are correlations
        grad_u = grad_K = grad_D = None
        if ctx.needs_input_grad[0]:
            grad_u = torch.fft.irfft((G * F).conj_physical_(), ctx.n)[..., :length]
            if D is not None:
                grad_u.addcmul_(D[..., None], grad[..., :length])
        if any(ctx.needs_input_grad[1:]):
            single = G.numel() == F.numel()  # one sequence: nothing to sum
            G = G.mul_(U).reshape(F.shape) if single else G.mul_(U).sum_to_size(F.shape)
            grad_K = torch.fft.irfft(G.conj_physical_(), ctx.n)[..., : ctx.lags]
            # A copy: gradients are accumulated in place, so they must not share memory.
            grad_D = grad_K[..., 0].clone() if ctx.needs_input_grad[2] else None
        return grad_u, grad_K, grad_D


def causal_conv_naive(
    u: Float[Tensor, "*batch length"], K: Float[Tensor, "*H lags"], D: Float[Tensor, "*H"] | None = None
) -> Float[Tensor, "*batch length"]:
    """Compute `causal_conv` as a sum over lags, in O(L^2).

    >>> causal_conv_naive(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.5, 0.25]))
    tensor([1.0000, 0.5000, 2.2500])

    Chapter: 3. Fast twin: `causal_conv`, which raises the same errors.
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
    """Run ``x <- A_bar x + B_bar u``, ``y = C x`` sample by sample; return all outputs and the final state.

    It starts from ``state``, or from zeros.

    >>> half, one = torch.full((1, 1, 1), 0.5), torch.ones(1, 1)
    >>> scan(half, one, one, torch.tensor([[[1.0, 0.0, 2.0]]]))[0]
    tensor([[[1.0000, 0.5000, 2.2500]]])

    Chapter: 3. Fast twins: `causal_conv` with `sashimi_lib.ssm.kernels.kernel`, and
    `sashimi_lib.ssm.kernels.final_state` for the state.
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
