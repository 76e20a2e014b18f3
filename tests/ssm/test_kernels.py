"""The fast kernel equals its three textbook twins, gradients included, at every kind of length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib.ssm import hippo
from sashimi_lib.ssm.convolution import scan
from sashimi_lib.ssm.discretize import bilinear, bilinear_dplr, zoh, zoh_diagonal
from sashimi_lib.ssm.kernels import (
    final_state,
    kernel,
    kernel_cauchy,
    kernel_naive,
    kernel_vandermonde,
    krylov,
    strided_powers,
    truncate,
    untruncate,
    zero_input_response,
)
from sashimi_lib.ssm.systems import DPLR, DiagonalMatrix, DiagonalPlusLowRank

LENGTHS = [1, 2, 3, 4, 5, 7, 16, 31, 64, 97, 100, 127, 128, 129, 251, 1000]


def difference(a, b):
    """Norm of the difference, relative to the norm of b."""
    return float(torch.linalg.norm(a - b) / torch.linalg.norm(b).clamp_min(1e-30))


def dplr(measure="legs", N=16, H=3, seed=0):
    """A HiPPO initialization with random C and step sizes, in float64."""
    generator = torch.Generator().manual_seed(seed)
    normal = hippo.nplr(measure, N)
    C = torch.randn(H, N // 2, generator=generator, dtype=torch.complex128)
    dt = 10 ** (-3 + 2 * torch.rand(H, generator=generator, dtype=torch.float64))
    Lambda, P, B = (x.expand(H, *x.shape).clone() for x in normal[:3])
    return DPLR(Lambda, P, -P, B, C, dt)


def diagonal(init="lin", N=16, H=3, seed=0):
    """An S4D initialization with random C and step sizes, in float64."""
    Lambda, B = (x.expand(H, N // 2).clone() for x in hippo.diagonal(init, N))
    none = Lambda[..., None][..., :0]
    return dplr("legs", N, H, seed)._replace(Lambda=Lambda, p=none, q=none, B=B)


def off_the_axis(system):
    """FouT has a mode without decay: a pole where the Cauchy sum is evaluated. Layers start beside it."""
    return system._replace(Lambda=system.Lambda - 1e-3)


SYSTEMS = {
    "legs": dplr("legs"),
    "legt, rank 2": dplr("legt"),
    "fout, off the axis": off_the_axis(dplr("fout")),
    "legs, state 64": dplr("legs", N=64, H=2),
    "diagonal, bilinear": diagonal("legs"),
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_fast_naive_and_cauchy_kernels_agree(name, length):
    system = SYSTEMS[name]
    recurrence = bilinear_dplr(system)
    naive = kernel_naive(recurrence.dense(), recurrence.B, recurrence.C, length)
    assert difference(kernel(recurrence, length), naive) < 1e-10
    cauchy = kernel_cauchy(system._replace(C=truncate(system, length)), length)
    assert difference(cauchy, naive) < 1e-10


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("init", ["lin", "inv", "legs", "real"])
def test_fast_naive_and_vandermonde_kernels_agree(init, length):
    system = diagonal(init)
    recurrence = zoh_diagonal(system)
    naive = kernel_naive(recurrence.dense(), recurrence.B, recurrence.C, length)
    assert difference(kernel(recurrence, length), naive) < 1e-10
    A_bar = torch.complex(*recurrence.modes)
    B_bar = torch.complex(*recurrence.B.chunk(2, dim=-1))
    assert difference(kernel_vandermonde(A_bar, B_bar, system.C, length), naive) < 1e-10


@pytest.mark.parametrize("name", SYSTEMS)
def test_structured_discretization_equals_the_dense_one(name):
    system = SYSTEMS[name]
    A, B, _ = system.dense()
    A_bar, B_bar = bilinear(A, B, system.dt)
    recurrence = bilinear_dplr(system)
    assert difference(recurrence.dense(), A_bar) < 1e-12
    assert difference(recurrence.B, B_bar) < 1e-12


def test_structured_zero_order_hold_equals_the_dense_one():
    system = diagonal("inv")
    A, B, _ = system.dense()
    A_bar, B_bar = zoh(A, B, system.dt)
    recurrence = zoh_diagonal(system)
    assert difference(recurrence.dense(), A_bar) < 1e-12
    assert difference(recurrence.B, B_bar) < 1e-12


@pytest.mark.parametrize("length", [1, 3, 1000, 4096, 16000])
@pytest.mark.parametrize("recurrence", [bilinear_dplr(dplr(N=64)), zoh_diagonal(diagonal(N=64))])
def test_a_kernel_in_float32_is_accurate_to_1e_5(recurrence, length):
    single = kernel(recurrence, length, torch.float32)
    assert single.dtype == torch.float32
    assert difference(single.double(), kernel(recurrence, length)) < 1e-5


def gradients(function, system):
    """Gradients of a fixed random projection of a kernel with respect to every parameter of the system."""
    leaves = [x.clone().requires_grad_() for x in system]
    K = function(DPLR(*leaves))
    weight = torch.randn(K.shape, generator=torch.Generator().manual_seed(7), dtype=K.dtype)
    return torch.autograd.grad((K * weight).sum(), leaves, materialize_grads=True)


def cauchy_of_plain_C(length):
    return lambda system: kernel_cauchy(system._replace(C=truncate(system, length)), length)


@pytest.mark.parametrize("length", [1, 2, 13, 64, 101])
@pytest.mark.parametrize("name", ["legs", "legt, rank 2"])
def test_gradients_of_dplr_kernels_agree(name, length):
    def naive(system):
        recurrence = bilinear_dplr(system)
        return kernel_naive(recurrence.dense(), recurrence.B, recurrence.C, length)

    expected = gradients(naive, SYSTEMS[name])
    for twin in (lambda system: kernel(bilinear_dplr(system), length), cauchy_of_plain_C(length)):
        for actual, wanted in zip(gradients(twin, SYSTEMS[name]), expected, strict=True):
            assert difference(actual, wanted) < 1e-8


@pytest.mark.parametrize("length", [1, 2, 13, 64, 101])
def test_gradients_of_diagonal_kernels_agree(length):
    def vandermonde(system):
        A_bar = torch.exp(system.dt[:, None] * system.Lambda)
        return kernel_vandermonde(A_bar, (A_bar - 1) / system.Lambda * system.B, system.C, length)

    system = diagonal("inv")
    actual = gradients(lambda system: kernel(zoh_diagonal(system), length), system)
    for fast, slow in zip(actual, gradients(vandermonde, system), strict=True):
        assert difference(fast, slow) < 1e-8


@pytest.mark.parametrize("length", [1, 2, 16, 101])
@pytest.mark.parametrize("name", SYSTEMS)
def test_untruncate_inverts_truncate(name, length):
    system = SYSTEMS[name]
    truncated = truncate(system, length)
    assert difference(untruncate(system._replace(C=truncated), length), system.C) < 1e-8


def test_a_truncated_C_is_valid_for_one_length_only():
    system = dplr()
    truncated = system._replace(C=truncate(system, 64))
    assert difference(kernel_cauchy(truncated, 64), kernel(bilinear_dplr(system), 64)) < 1e-10
    assert difference(kernel_cauchy(truncated, 32), kernel(bilinear_dplr(system), 32)) > 1e-3


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13])
def test_krylov_lists_powers(length):
    A = torch.randn(2, 4, 4, dtype=torch.float64)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    table, _ = krylov(x, A, length)
    expected = torch.cat([x @ torch.linalg.matrix_power(A, l) for l in range(length)], dim=1)
    assert difference(table, expected) < 1e-12


@pytest.mark.parametrize("length", [1, 8, 9, 16, 21])
@pytest.mark.parametrize("form", ["full", "low rank", "modes"])
def test_strided_powers_equal_krylov(form, length):
    modes = DiagonalMatrix(*(0.5 * torch.randn(2, 2, 4, dtype=torch.float64)))
    A = DiagonalPlusLowRank(modes, *(0.3 * torch.randn(2, 2, 1, 8, dtype=torch.float64)))
    A = {"full": A.dense(), "low rank": A, "modes": modes}[form]
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    assert difference(strided_powers(x, A, length), krylov(x, A, length)[0]) < 1e-12


def test_gradients_of_strides_are_those_of_the_powers():
    A = (0.4 * torch.randn(2, 4, 4, dtype=torch.float64)).requires_grad_()
    x, weight = torch.randn(2, 3, 4, dtype=torch.float64).requires_grad_(), torch.randn(2, 3 * 21, 4)
    strides = torch.autograd.grad((weight * strided_powers(x, A, 21)).sum(), (x, A))
    doubling = torch.autograd.grad((weight * krylov(x, A, 21)[0]).sum(), (x, A))
    assert all(difference(a, b) < 1e-12 for a, b in zip(strides, doubling, strict=True))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 97, 500])
@pytest.mark.parametrize("recurrence", [bilinear_dplr(dplr()), zoh_diagonal(diagonal())])
def test_zero_input_response_and_final_state_equal_the_scan(recurrence, length):
    batch, (H, N) = 2, recurrence.B.shape
    state = torch.randn(batch, H, N, dtype=torch.float64)
    u = torch.randn(batch, H, length, dtype=torch.float64)
    response, _ = scan(recurrence.dense(), recurrence.B, recurrence.C, torch.zeros_like(u), state)
    assert difference(zero_input_response(recurrence, state, length), response) < 1e-10
    _, last = scan(recurrence.dense(), recurrence.B, recurrence.C, u, state)
    assert difference(final_state(recurrence, u, state), last) < 1e-10


@given(
    seed=st.integers(0, 10_000), length=st.integers(1, 300), pairs=st.integers(1, 6), rank=st.integers(0, 3)
)
def test_fast_and_naive_kernels_agree_for_any_stable_system_of_any_rank(seed, length, pairs, rank):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(2, *shape, generator=generator, dtype=torch.complex128)

    Lambda = torch.complex(-randn(pairs).real.exp(), 5 * randn(pairs).imag)
    p = randn(pairs, rank)
    system = DPLR(Lambda, p, -p, randn(pairs), randn(pairs), 0.1 * randn().real.exp())
    recurrence = bilinear_dplr(system)
    naive = kernel_naive(recurrence.dense(), recurrence.B, recurrence.C, length)
    assert difference(kernel(recurrence, length), naive) < 1e-9


def test_a_kernel_of_length_zero_is_refused():
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        kernel(bilinear_dplr(dplr()), 0)


def test_the_zero_order_hold_refuses_a_low_rank_term():
    with pytest.raises(ValueError, match="p must have rank 0"):
        zoh_diagonal(dplr())


@pytest.mark.parametrize("rule", [bilinear, zoh])
@pytest.mark.parametrize("dt", [0.0, -0.1, float("nan")])
def test_a_step_that_is_not_positive_is_refused(rule, dt):
    with pytest.raises(ValueError, match="dt must be positive"):
        rule(torch.eye(2), torch.ones(2), dt)


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_powers_of_low_rank_are_those_of_full_matrices(rank):
    modes = DiagonalMatrix(*(0.5 * torch.randn(2, 3, 8, dtype=torch.double)))
    A = DiagonalPlusLowRank(modes, *(0.3 * torch.randn(2, 3, rank, 16, dtype=torch.double)))
    full, rows = A.dense(), torch.randn(3, 5, 16, dtype=torch.double)
    assert torch.allclose(rows @ A, rows @ full)
    assert torch.allclose(rows @ A.mT, rows @ full.mT)
    ranks, power = [], A
    for _ in range(5):
        power, full = power @ power, full @ full
        if isinstance(power, DiagonalPlusLowRank):
            ranks.append(power.left.shape[1])
            assert torch.allclose(power.dense(), full)
        else:
            assert torch.allclose(power, full)
    assert ranks == [2 * rank * 2**n for n in range(5) if 2 * rank * 2**n <= 8]
