"""Both rules give the published values, preserve stability, and equal their structured twins."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib.ssm import hippo
from sashimi_lib.ssm.convolution import scan
from sashimi_lib.ssm.discretize import bilinear, bilinear_dplr, zoh, zoh_diagonal
from sashimi_lib.ssm.kernels import kernel_naive
from sashimi_lib.ssm.stability import spectral_radius
from sashimi_lib.ssm.systems import DPLR

PUBLISHED = {  # LegS, N = 4, dt = 0.1, C of ones
    bilinear: [0.5470522, 0.22343937, 0.06399393, -0.00459942,
               -0.02562155, -0.02392916, -0.01325228, -0.00073676],
    zoh: [0.52993287, 0.22122166, 0.06768143, 0.00057333,
          -0.02090998, -0.02035102, -0.01087185, 0.00063304],
}  # fmt: skip


def system(measure, N, H=2, rank=None, seed=0):
    """H HiPPO systems with random C and steps; ``rank=0`` keeps the diagonal part only."""
    generator = torch.Generator().manual_seed(seed)
    Lambda, P, B, _ = hippo.nplr(measure, N)
    P = P[:, :rank]
    C = torch.randn(H, N // 2, generator=generator, dtype=torch.complex128)
    dt = 10 ** (-3 + 2 * torch.rand(H, generator=generator, dtype=torch.float64))
    Lambda, P, B = (x.expand(H, *x.shape) for x in (Lambda, P, B))
    return DPLR(Lambda, P, -P, B, C, dt)


@pytest.mark.parametrize("rule", PUBLISHED, ids=["bilinear", "zoh"])
def test_kernel_of_legs_is_the_published_one(rule):
    A_bar, B_bar = rule(*hippo.legs(4), 0.1)
    K = kernel_naive(A_bar[None], B_bar[None], torch.ones(1, 4, dtype=torch.float64), 8)
    assert K[0].tolist() == pytest.approx(PUBLISHED[rule], abs=5.1e-9)


def test_spectral_radius_of_legs_is_the_published_one():
    A, B = hippo.legs(64)
    assert float(spectral_radius(bilinear(A, B, 1e-3)[0])) == pytest.approx(0.99900050, abs=5e-9)
    assert float(spectral_radius(bilinear(A, B, 0.1)[0])) == pytest.approx(0.90476190, abs=5e-9)
    A, B = hippo.legs(8)  # at N = 64 eigenvalues of the exponential itself are beyond float64
    assert float(spectral_radius(zoh(A, B, 0.1)[0])) == pytest.approx(math.exp(-0.1), abs=1e-9)


def test_sign_flip_of_the_low_rank_term_leaves_the_unit_disc():
    flipped = system("legs", 8, H=1)
    flipped = flipped._replace(q=flipped.p, dt=torch.tensor([0.1], dtype=torch.float64))
    radius = float(spectral_radius(bilinear_dplr(flipped).dense())[0])
    assert radius == pytest.approx((1 + 0.05 * 7) / (1 - 0.05 * 7), abs=1e-6)  # the eigenvalue N - 1 = 7


@pytest.mark.parametrize("measure", list(hippo.Measure))
@given(N=st.sampled_from([2, 4, 10, 32, 64]), seed=st.integers(0, 2**16))
def test_structured_bilinear_equals_dense_bilinear(measure, N, seed):
    structured = system(measure, N, seed=seed)
    A, B, C = structured.dense()
    A_bar, B_bar = bilinear(A, B, structured.dt)
    recurrence = bilinear_dplr(structured)
    assert torch.linalg.norm(recurrence.dense() - A_bar) < 1e-11 * torch.linalg.norm(A_bar)
    assert torch.linalg.norm(recurrence.B - B_bar) < 1e-11 * torch.linalg.norm(B_bar)
    assert torch.equal(recurrence.C, C)


@given(
    N=st.sampled_from([2, 4, 10, 32]),
    init=st.sampled_from(list(hippo.Diagonal)),
    dt=st.floats(1e-4, 0.5),
)
def test_structured_rules_equal_dense_ones_on_diagonal_systems(N, init, dt):
    Lambda, B = (x[None] for x in hippo.diagonal(init, N))
    none = B[..., None][..., :0]
    diagonal = DPLR(Lambda, none, none, B, torch.ones_like(B), torch.tensor([dt], dtype=torch.float64))
    A, B_real, _ = diagonal.dense()
    for structured, dense in ((zoh_diagonal, zoh), (bilinear_dplr, bilinear)):
        A_bar, B_bar = dense(A, B_real, diagonal.dt)
        recurrence = structured(diagonal)
        assert torch.allclose(
            recurrence.dense(), A_bar, atol=1e-10
        )  # the error of torch's exponential is 1e-11
        assert torch.linalg.norm(recurrence.B - B_bar) < 1e-8 * torch.linalg.norm(B_bar)


@given(N=st.integers(1, 8), dt=st.floats(1e-3, 100.0), seed=st.integers(0, 2**16))
def test_both_rules_keep_a_stable_system_stable_at_any_step(N, dt, seed):
    generator = torch.Generator().manual_seed(seed)
    X, Y = torch.randn(2, N, N, generator=generator, dtype=torch.float64)
    A = X - X.mT - Y @ Y.mT - 0.1 * torch.eye(N, dtype=torch.float64)  # symmetric part negative: Hurwitz
    for rule in (bilinear, zoh):
        assert float(spectral_radius(rule(A, torch.ones(N, dtype=torch.float64), dt)[0])) < 1


def test_zero_order_hold_is_exact_for_a_held_input():
    A, B = hippo.legs(6)
    u = torch.randn(1, 1, 5, dtype=torch.float64)
    C = torch.ones(1, 6, dtype=torch.float64)
    coarse = scan(*(x[None] for x in zoh(A, B, 0.1)), C, u)[1]
    fine = scan(*(x[None] for x in zoh(A, B, 0.1 / 8)), C, u.repeat_interleave(8, -1))[1]
    assert torch.allclose(coarse, fine, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", [bilinear, zoh])
def test_rules_approach_the_exact_decay_at_their_order(rule):
    A, B = torch.tensor([[-1.0]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    errors = [float((rule(A, B, dt)[0] - math.exp(-dt)).abs()) for dt in (0.02, 0.01)]
    if rule is zoh:
        assert max(errors) < 1e-11
    else:
        assert errors[0] / errors[1] == pytest.approx(8, rel=0.05)  # third order a step, second in all


@pytest.mark.parametrize("rule", [bilinear, zoh])
def test_batches_of_systems_are_discretized_independently(rule):
    A, B = hippo.legs(5)
    dt = torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64)
    A_bar, B_bar = rule(A.expand(3, 5, 5), B.expand(3, 5), dt)
    for channel, step in enumerate(dt.tolist()):
        single = rule(A, B, step)
        assert torch.allclose(A_bar[channel], single[0], atol=1e-12)
        assert torch.allclose(B_bar[channel], single[1], atol=1e-12)


@pytest.mark.parametrize("rule", [bilinear, zoh])
@pytest.mark.parametrize("dt", [0.0, -0.1, math.nan])
def test_step_that_is_not_positive_is_named(rule, dt):
    with pytest.raises(ValueError, match="dt must be positive"):
        rule(*hippo.legs(2), dt)


def test_zero_order_hold_refuses_a_low_rank_term():
    with pytest.raises(ValueError, match="p must have rank 0"):
        zoh_diagonal(system("legs", 4))
