"""Convolution by FFT, convolution by definition and the recurrence are equal."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib.ssm import hippo
from sashimi_lib.ssm.convolution import (
    bidirectional_conv,
    bidirectional_conv_naive,
    causal_conv,
    causal_conv_naive,
    scan,
)
from sashimi_lib.ssm.discretize import bilinear
from sashimi_lib.ssm.kernels import kernel_naive

LENGTHS = st.integers(1, 130)


def relative(a, b):
    return float(torch.linalg.norm(a - b) / torch.linalg.norm(b).clamp_min(1e-30))


def recurrence(H, N, dtype=torch.float64):
    """H LegS systems, their steps a factor apart, with random C."""
    A, B = (x.to(dtype).expand(H, *x.shape) for x in hippo.legs(N))
    A_bar, B_bar = bilinear(A, B, torch.logspace(-2, -0.5, H, dtype=dtype))
    return A_bar, B_bar, torch.randn(H, N, dtype=dtype)


@given(length=LENGTHS, extra=st.integers(0, 9), batch=st.lists(st.integers(1, 3), max_size=3))
def test_fft_convolution_equals_its_definition(length, extra, batch):
    u = torch.randn(*batch, length, dtype=torch.float64)
    K = torch.randn(*batch[-1:], length + extra, dtype=torch.float64)
    assert relative(causal_conv(u, K), causal_conv_naive(u, K)) < 1e-12
    D = torch.randn(batch[-1:], dtype=torch.float64)
    assert relative(causal_conv(u, K, D), causal_conv(u, K) + D[..., None] * u) < 1e-12


@given(length=LENGTHS, batch=st.integers(1, 3), H=st.integers(1, 3), N=st.integers(1, 8))
def test_recurrence_equals_convolution_with_its_kernel(length, batch, H, N):
    A_bar, B_bar, C = recurrence(H, N)
    u = torch.randn(batch, H, length, dtype=torch.float64)
    y, _ = scan(A_bar, B_bar, C, u)
    assert relative(causal_conv(u, kernel_naive(A_bar, B_bar, C, length)), y) < 1e-10


@given(length=st.integers(2, 60), at=st.data())
def test_recurrence_continues_from_a_state(length, at):
    cut = at.draw(st.integers(0, length))
    A_bar, B_bar, C = recurrence(2, 4)
    u = torch.randn(3, 2, length, dtype=torch.float64)
    expected, last = scan(A_bar, B_bar, C, u)
    state, outputs = None, []
    for chunk in (u[..., :cut], u[..., cut:]):
        if chunk.shape[-1]:
            y, state = scan(A_bar, B_bar, C, chunk, state)
            outputs.append(y)
    assert torch.equal(torch.cat(outputs, -1), expected)
    assert torch.equal(state, last)


@pytest.mark.parametrize("convolve", [causal_conv, causal_conv_naive])
def test_output_depends_on_no_later_input(convolve):
    u = torch.randn(50, dtype=torch.float64, requires_grad=True)
    y = convolve(u, torch.randn(50, dtype=torch.float64))
    later = torch.autograd.grad(y[20], u)[0][21:]
    assert float(later.abs().max()) < 1e-14  # an FFT leaves rounding, the plain sum exactly nothing
    if convolve is causal_conv_naive:
        assert not later.any()


def test_gradients_of_both_convolutions_agree():
    u = torch.randn(2, 33, dtype=torch.float64, requires_grad=True)
    K = torch.randn(33, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 33, dtype=torch.float64)
    fast = torch.autograd.grad((weight * causal_conv(u, K)).sum(), (u, K))
    slow = torch.autograd.grad((weight * causal_conv_naive(u, K)).sum(), (u, K))
    assert all(relative(a, b) < 1e-12 for a, b in zip(fast, slow, strict=True))


def test_convolution_does_not_wrap_round():
    u, K = torch.zeros(64), torch.zeros(64)
    u[-1] = K[-1] = 1.0
    assert float(causal_conv(u, K).abs().max()) < 1e-6  # the true product lies at 126, beyond the end


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_convolved_in_float32(dtype):
    u, K = torch.randn(200).to(dtype), torch.randn(200)
    y = causal_conv(u, K)
    assert y.dtype == dtype
    assert relative(y.float(), causal_conv(u.float(), K).to(dtype).float()) == 0


@pytest.mark.parametrize("convolve", [causal_conv, causal_conv_naive])
def test_bad_lengths_are_named(convolve):
    with pytest.raises(ValueError, match=r"K must be at least as long as u \(8 samples\), got 7"):
        convolve(torch.ones(8), torch.ones(7))
    with pytest.raises(ValueError, match="u must hold at least one sample"):
        convolve(torch.ones(0), torch.ones(0))


@pytest.mark.parametrize("shape", [(1, 7), (3, 7), (2, 3, 7)])
def test_gradients_of_the_fft_are_those_of_the_sum(shape):
    u = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    K = torch.randn(shape[-2:] if len(shape) > 2 else shape[-1:], dtype=torch.float64, requires_grad=True)
    D = torch.randn(K.shape[:-1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(causal_conv, (u, K, D))
    weight = torch.randn(shape, dtype=torch.float64)
    fast = torch.autograd.grad((causal_conv(u, K, D) * weight).sum(), (u, K, D))
    slow = torch.autograd.grad((causal_conv_naive(u, K, D) * weight).sum(), (u, K, D))
    for a, b in zip(fast, slow, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@given(length=LENGTHS, extra=st.integers(0, 9), batch=st.lists(st.integers(1, 3), max_size=3))
def test_bidirectional_convolution_equals_its_definition(length, extra, batch):
    u = torch.randn(*batch, length, dtype=torch.float64)
    causal, anticausal = torch.randn(2, *batch[-1:], length + extra, dtype=torch.float64)
    D = torch.randn(batch[-1:], dtype=torch.float64)
    fast = bidirectional_conv(u, causal, anticausal, D)
    assert relative(fast, bidirectional_conv_naive(u, causal, anticausal, D)) < 1e-12
    fast, slow = bidirectional_conv(u, causal, anticausal), bidirectional_conv_naive(u, causal, anticausal)
    assert relative(fast, slow) < 1e-12
    t = length // 2
    terms = [
        u[..., m] * (causal[..., t - m] if m <= t else anticausal[..., m - t - 1]) for m in range(length)
    ]
    assert relative(slow[..., t], sum(terms)) < 1e-12


def test_a_reversed_bidirectional_convolution_has_the_reversed_kernel():
    u, causal, anticausal = torch.randn(3, 40, dtype=torch.float64)
    reversed_kernels = torch.cat([causal[:1], anticausal[:-1]]), torch.cat([causal[1:], causal[:1]])
    assert (
        relative(
            bidirectional_conv(u.flip(-1), *reversed_kernels).flip(-1),
            bidirectional_conv(u, causal, anticausal),
        )
        < 1e-12
    )


@pytest.mark.parametrize("length", [2, 7])
def test_gradients_of_the_bidirectional_fft_are_those_of_the_sum(length):
    u = torch.randn(3, 2, length, dtype=torch.float64, requires_grad=True)
    causal, anticausal = (torch.randn(2, length, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(3, 2, length, dtype=torch.float64)
    fast, slow = (
        torch.autograd.grad((convolve(u, causal, anticausal) * weight).sum(), (u, causal, anticausal))
        for convolve in (bidirectional_conv, bidirectional_conv_naive)
    )
    for a, b in zip(fast, slow, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("convolve", [bidirectional_conv, bidirectional_conv_naive])
def test_bad_lengths_of_either_side_are_named(convolve):
    for name, lengths in (("causal", (7, 8)), ("anticausal", (8, 7))):
        with pytest.raises(ValueError, match=rf"{name} must be at least as long as u \(8 samples\), got 7"):
            convolve(torch.ones(8), *map(torch.ones, lengths))
    with pytest.raises(ValueError, match="u must hold at least one sample"):
        convolve(*torch.ones(3, 0))
