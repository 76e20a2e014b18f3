"""HiPPO matrices are the published ones, have the structure that S4 needs, and represent the history."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sashimi_lib.ssm import hippo
from sashimi_lib.ssm.hippo import Measure

MEASURES = list(Measure)
EVEN = st.integers(1, 32).map(lambda half: 2 * half)


def symmetric(M):
    return (M + M.mT) / 2


def identity(N):
    return torch.eye(N, dtype=torch.float64)


def held_projection(signal, N):
    """Legendre coefficients of a piecewise constant signal, each integral by Gauss quadrature."""
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(N))
    position = (torch.arange(len(signal))[:, None] + (x + 1) / 2) / len(signal)
    rows = hippo.basis("legs", N, position.flatten()).reshape(N, len(signal), N)
    return torch.einsum("nlq,q,l->n", rows, w / 2, signal.double()) / len(signal)


def test_legs_of_size_four_is_the_published_one():
    A, B = hippo.legs(4)
    published = [
        [-1, 0, 0, 0],
        [-1.732051, -2, 0, 0],
        [-2.236068, -3.872983, -3, 0],
        [-2.645751, -4.582576, -5.916080, -4],
    ]
    assert torch.allclose(A, torch.tensor(published, dtype=torch.float64), rtol=0, atol=5e-7)
    assert B.tolist() == pytest.approx([1, 1.732051, 2.236068, 2.645751], abs=5e-7)
    P = hippo.low_rank("legs", 4)[:, 0]
    assert P.tolist() == pytest.approx([0.707107, 1.224745, 1.581139, 1.870829], abs=5e-7)


@pytest.mark.parametrize("N", [1, 2, 3, 8])
def test_legt_follows_its_entry_formula(N):
    A, B = hippo.legt(N)
    for n in range(N):
        assert B[n] == pytest.approx(math.sqrt(2 * n + 1) / 2)
        for k in range(N):
            entry = -math.sqrt((2 * n + 1) * (2 * k + 1)) / 2
            assert A[n, k] == pytest.approx(entry if k <= n else entry * (-1) ** (n - k))


def test_fout_of_size_six_follows_its_entry_formula():
    A, B = hippo.fout(6)
    assert B.tolist() == pytest.approx([1, 0, math.sqrt(2), 0, math.sqrt(2), 0])
    S = A + torch.outer(B, B)
    below = torch.tensor([0, 0, math.pi, 0, 2 * math.pi], dtype=torch.float64)
    assert torch.allclose(S, torch.diag(below, -1) - torch.diag(below, 1), atol=1e-14)


@pytest.mark.parametrize("measure", MEASURES)
@given(N=EVEN)
def test_matrix_plus_low_rank_is_normal(measure, N):
    A, P = hippo.hippo(measure, N)[0], hippo.low_rank(measure, N)
    normal = A + P @ P.mT
    assert P.shape[1] == (2 if measure is Measure.LEGT else 1)
    assert (
        torch.linalg.norm(normal @ normal.mT - normal.mT @ normal) <= 1e-11 * torch.linalg.norm(normal) ** 2
    )
    middle = -0.5 if measure is Measure.LEGS else 0.0  # LegS: -I/2; LegT and FouT rotate without decay
    assert torch.allclose(symmetric(normal), middle * identity(N), atol=1e-10)


@given(N=st.integers(1, 64))
def test_legs_has_the_known_symmetric_part_and_eigenvalues(N):
    A, B = hippo.legs(N)
    P = hippo.low_rank("legs", N)
    assert torch.allclose(B, math.sqrt(2) * P[:, 0], rtol=1e-14)
    assert torch.allclose(A + A.mT, -identity(N) - 2 * P @ P.mT, atol=1e-10)
    assert float((P**2).sum()) == pytest.approx(N**2 / 2)
    assert torch.equal(torch.triu(A, 1), torch.zeros(N, N, dtype=torch.float64))  # triangular, so:
    assert torch.equal(A.diagonal(), -torch.arange(1, N + 1, dtype=torch.float64))
    fastest = torch.linalg.eigvalsh(A + A.mT)
    assert fastest[0] == pytest.approx(-(1 + N**2))
    if N > 1:
        assert fastest[-1] == pytest.approx(-1)


def test_condition_of_the_eigenvectors_of_legs_grows_as_published():
    def condition(N):
        vectors = torch.linalg.eig(hippo.legs(N)[0]).eigenvectors
        return float(torch.linalg.cond(vectors))

    assert condition(4) == pytest.approx(86, abs=0.5)
    assert condition(8) == pytest.approx(7.7e4, abs=0.05e4)
    assert condition(16) == pytest.approx(8.3e10, rel=0.05)
    assert condition(64) > 1e15


PUBLISHED_IMAGINARY = {
    4: ([4.603293, 0.556501], []),
    8: ([19.857410, 5.354209, 1.957794, 0.427489], []),
    16: ([80.966081, 25.629226, 13.834342, 8.362105], [2.899668, 1.371989, 0.352018]),
    64: ([1303.273843, 433.030757, 258.152210, 182.620411], [1.702968, 0.905859, 0.263857]),
}


@pytest.mark.parametrize("N", PUBLISHED_IMAGINARY)
def test_diagonal_part_of_legs_has_the_published_eigenvalues(N):
    Lambda = hippo.nplr("legs", N).Lambda
    first, last = PUBLISHED_IMAGINARY[N]
    assert torch.allclose(Lambda.real, torch.full((N // 2,), -0.5, dtype=torch.float64), atol=1e-12)
    assert bool((Lambda.imag < 0).all())
    assert (-Lambda.imag)[: len(first)].tolist() == pytest.approx(first, abs=5.1e-7)
    if last:
        assert (-Lambda.imag)[-len(last) :].tolist() == pytest.approx(last, abs=5.1e-7)


def test_low_rank_and_input_vectors_of_legs_have_the_published_sizes():
    for N in (4, 16, 64):
        normal = hippo.nplr("legs", N)
        assert float(normal.P.abs().square().sum()) == pytest.approx(N**2 / 4)
        assert float(normal.B.abs().square().sum()) == pytest.approx(N**2 / 2)
    assert float(hippo.nplr("legs", 64).P.abs().max()) == pytest.approx(28.815903, abs=5.1e-7)


@given(N=st.integers(2, 64))
def test_flipping_the_sign_of_the_low_rank_term_makes_legs_unstable(N):
    """A + 2 P P^T is triangular the other way, with 0 ... N-1 on its diagonal: the largest is N - 1.

    Eigenvalue solvers in float64 give 121 to 126 at N = 64, since the matrix is far from normal.
    """
    A, _ = hippo.legs(N)
    P = hippo.low_rank("legs", N)
    flipped = A + 2 * P @ P.mT
    assert torch.allclose(torch.tril(flipped, -1), torch.zeros(N, N, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(flipped.diagonal(), torch.arange(N, dtype=torch.float64), atol=1e-10)
    if N <= 8:
        assert float(torch.linalg.eigvals(flipped).real.max()) == pytest.approx(N - 1, abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
@given(N=EVEN)
def test_nplr_reconstructs_matrix_and_input_vector(measure, N):
    A, B = hippo.hippo(measure, N)
    Lambda, P, B_tilde, V = hippo.nplr(measure, N)
    assert torch.allclose(V.mH @ V, torch.eye(N // 2, dtype=V.dtype), atol=1e-12)
    P_real = 2 * (V @ P).real
    rebuilt = 2 * (V * Lambda @ V.mH).real - P_real @ P_real.mT
    assert torch.linalg.norm(rebuilt - A) < 1e-12 * torch.linalg.norm(A)
    assert torch.linalg.norm(2 * (V @ B_tilde).real - B) < 1e-12 * torch.linalg.norm(B)


PUBLISHED_DIAGONAL = {
    ("lin", 64): {0: 0, -1: 97.389},
    ("inv", 64): {0: 1283.425, 1: 414.227, 2: 240.388, -1: 0.3234},
    ("inv", 8): {0: 17.825354, 1: 4.244132, 2: 1.527887, 3: 0.363783},
    ("legs", 64): {0: -1303.274, -1: -0.2639},
}


@pytest.mark.parametrize(("init", "N"), PUBLISHED_DIAGONAL)
def test_diagonal_initializations_are_the_published_ones(init, N):
    Lambda, B = hippo.diagonal(init, N)
    assert torch.allclose(Lambda.real, torch.full((N // 2,), -0.5, dtype=torch.float64))
    for index, imag in PUBLISHED_DIAGONAL[init, N].items():
        assert float(Lambda.imag[index]) == pytest.approx(imag, abs=5.1e-4 if N == 64 else 5.1e-7)
    if init != "legs":
        assert torch.equal(B, torch.ones(N // 2, dtype=torch.complex128))


def test_the_real_initialization_counts_down_from_minus_one():
    assert hippo.diagonal("real", 8)[0].tolist() == [-1, -2, -3, -4]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("N", [2, 6, 16])
def test_basis_functions_are_orthonormal(measure, N):
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(64))
    rows = hippo.basis(measure, N, (x + 1) / 2)
    expected = identity(N)
    if measure is Measure.FOUT:
        expected[1, 1] = 0  # the sine of frequency zero
    assert torch.allclose(rows * (w / 2) @ rows.mT, expected, atol=1e-10)


@settings(max_examples=30)
@given(length=st.integers(1, 60), N=st.integers(1, 24), seed=st.integers(0, 2**16))
def test_legs_coefficients_are_the_exact_projection_of_the_piecewise_constant_signal(length, N, seed):
    signal = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    coefficients = hippo.project(signal, "legs", N)
    for end in {1, (length + 1) // 2, length}:
        assert torch.allclose(coefficients[end - 1], held_projection(signal[:end], N), atol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_legs_coefficients_do_not_depend_on_the_time_scale(k):
    signal = torch.randn(120)
    slow = hippo.project(signal.repeat_interleave(k), "legs", 16)[k - 1 :: k]
    assert torch.allclose(slow, hippo.project(signal, "legs", 16), atol=1e-10)


def smooth(length):
    t = torch.linspace(0, 1, length, dtype=torch.float64)
    return 0.6 * torch.sin(2 * math.pi * 3 * t) + 0.3 * torch.cos(2 * math.pi * 5 * t + 1)


def memory_error(signal, measure, N, window):
    """Root mean square of the reconstruction error relative to the signal, over the middle of the window."""
    past = signal if window is None else signal[-window:]
    position = (torch.arange(len(past)) + 0.5) / len(past)
    memory = hippo.reconstruct(hippo.project(signal, measure, N, window)[-1], measure, position)
    middle = slice(len(past) // 10, -len(past) // 10)
    return float(torch.linalg.norm((memory - past)[middle]) / torch.linalg.norm(past[middle]))


@pytest.mark.parametrize(
    ("measure", "window", "bound"), [("legs", None, 0.002), ("legt", 250, 0.01), ("fout", 250, 0.05)]
)
def test_a_state_of_size_64_reconstructs_the_history(measure, window, bound):
    assert memory_error(smooth(500), measure, 64, window) < bound


@pytest.mark.parametrize(("measure", "window"), [("legs", None), ("legt", 250), ("fout", 250)])
def test_a_larger_state_has_a_smaller_error(measure, window):
    errors = [memory_error(smooth(500), measure, N, window) for N in (4, 8, 16, 32)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("measure", ["legt", "fout"])
def test_a_click_before_the_window_has_no_effect_but_on_legs(measure):
    click = torch.zeros(600)
    click[100:140] = 1.0
    window = hippo.project(click, measure, 32, window=200)
    assert window[140].norm() > 0.2
    assert window[-1].norm() < 0.05 * window[140].norm()
    assert hippo.project(click, "legs", 32)[-1].norm() > 0.04  # 40 of 600 samples: still represented


def test_reconstruct_takes_batches_of_states():
    states, position = torch.randn(2, 3, 8), torch.linspace(0, 1, 5)
    batched = hippo.reconstruct(states, "legt", position)
    assert batched.shape == (2, 3, 5)
    assert torch.allclose(batched[1, 2], hippo.reconstruct(states[1, 2], "legt", position))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hippo.legs(0), "N must be a positive"),
        (lambda: hippo.fout(7), "N must be even"),
        (lambda: hippo.nplr("legs", 5), "N must be even"),
        (lambda: hippo.diagonal("lin", 3), "N must be even"),
        (lambda: hippo.basis("fout", 3, torch.zeros(1)), "N must be even"),
        (lambda: hippo.hippo("lagt", 4), "measure must be one of legs, legt, fout, got 'lagt'"),
        (lambda: hippo.diagonal("log", 4), "init must be one of lin, inv, legs, real, got 'log'"),
        (lambda: hippo.project(torch.ones(0), "legs", 4), "signal must hold at least one sample"),
        (lambda: hippo.project(torch.ones(4), "legs", 4, window=10), "window must be None for legs"),
        (lambda: hippo.project(torch.ones(4), "legt", 4), "window must be a positive number of samples"),
        (lambda: hippo.project(torch.ones(4), "fout", 4, window=0), "window must be a positive number"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
