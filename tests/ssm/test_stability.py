"""Hurwitz by construction: for any parameters eigenvalues have negative real parts, and no state grows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sashimi_lib.ssm import hippo
from sashimi_lib.ssm.discretize import bilinear, zoh
from sashimi_lib.ssm.s4 import Form, SSMConfig, StateSpace
from sashimi_lib.ssm.stability import (
    growth,
    is_hurwitz,
    numerical_abscissa,
    numerical_range,
    spectral_abscissa,
    spectral_radius,
)

BOUNDED = [Form.HURWITZ, Form.DIAGONAL]


def random_layer(form, seed, scale=1.0, d_state=8):
    """A layer whose parameters are moved from their initialization by noise of any scale."""
    generator = torch.Generator().manual_seed(seed)
    init = "lin" if form is Form.DIAGONAL else "legs"
    layer = StateSpace(2, SSMConfig(d_state=d_state, form=form, init=init, tied=False)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        layer.log_dt.copy_(-3 + 2 * torch.randn(2, generator=generator, dtype=torch.float64))
    return layer


@pytest.mark.parametrize("form", BOUNDED)
@settings(max_examples=200)
@given(seed=st.integers(0, 2**31), scale=st.floats(0, 3), pairs=st.integers(1, 16))
def test_every_eigenvalue_lies_left_of_the_axis_for_any_parameters(form, seed, scale, pairs):
    layer = random_layer(form, seed, scale, 2 * pairs)
    A = layer.system().dense()[0]
    # the error of eigvals is about 1e-15 times the norm of the matrix
    rounding = 1e-13 * torch.linalg.matrix_norm(A, ord=2)
    slowest = layer.Lambda[..., 0].exp().amin(-1)
    assert (spectral_abscissa(A) <= -slowest + rounding).all() if form is Form.HURWITZ else is_hurwitz(A)
    assert (spectral_radius(layer.recurrence().dense()) < 1 + 1e-12).all()


@pytest.mark.parametrize("form", BOUNDED)
@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), scale=st.floats(0, 1))
def test_the_discretized_spectral_radius_is_below_one_and_growth_bounded(form, seed, scale):
    A_bar = random_layer(form, seed, scale).recurrence().dense()
    assert (spectral_radius(A_bar) < 1).all()
    # these forms are contractions in their own coordinates, so no number of steps ever amplifies a state
    for steps in (1, 10, 1000, 1_000_000):
        assert (growth(A_bar, steps) <= 1 + 1e-9).all()


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), scale=st.floats(0, 3))
def test_the_numerical_range_of_the_hurwitz_form_lies_left_too(seed, scale):
    layer = random_layer(Form.HURWITZ, seed, scale)
    A = layer.system().dense()[0]
    slowest = layer.Lambda[..., 0].exp().amin(-1)
    assert (numerical_abscissa(A) <= -slowest + 1e-13 * torch.linalg.matrix_norm(A, ord=2)).all()


def destabilize(layer, steps=60):
    """Maximize the spectral abscissa by gradient ascent, and return it."""
    optimizer = torch.optim.Adam(layer.ssm_parameters(), lr=0.1)
    for _ in range(steps):
        A = layer.system().dense()[0]
        loss = -torch.linalg.eigvals(A).real.amax(-1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return spectral_abscissa(layer.system().dense()[0]).max().item()


def test_training_can_destabilize_the_unconstrained_form_but_never_the_hurwitz_form():
    def start(form):
        torch.manual_seed(0)
        return StateSpace(2, SSMConfig(d_state=8, form=form)).double()

    assert is_hurwitz(start(Form.UNCONSTRAINED).system().dense()[0])
    assert destabilize(start(Form.UNCONSTRAINED)) > 1
    assert destabilize(start(Form.HURWITZ_FREE_LAMBDA)) > 1
    assert destabilize(start(Form.HURWITZ)) < 0


@pytest.mark.parametrize("form", list(Form))
def test_every_form_is_stable_at_initialization(form):
    for init in ("lin", "inv", "legs", "real") if form is Form.DIAGONAL else ("legs", "legt", "fout"):
        layer = StateSpace(2, SSMConfig(d_state=16, form=form, init=init)).double()
        assert (spectral_radius(layer.recurrence().dense()) < 1 + 1e-12).all(), init


def test_flipping_the_sign_of_the_low_rank_term_makes_legs_unstable():
    """With the sign flipped, ``A + 2 P P^T = -A^T - I``: the eigenvalues -1 ... -N become 0 ... N - 1."""
    A, B = hippo.legs(64)
    P = hippo.low_rank("legs", 64)
    flipped = A + 2 * P @ P.mT
    assert torch.allclose(flipped, -A.mT - torch.eye(64, dtype=torch.float64), atol=1e-12)
    exact = (1 + 63 * 5e-4) / (1 - 63 * 5e-4)  # that of the eigenvalue 63, by the bilinear rule
    small, _ = hippo.legs(8)
    assert spectral_abscissa(-small.mT - torch.eye(8, dtype=torch.float64)) == pytest.approx(7, abs=1e-6)
    # At N = 64 float64 gives 115 to 124, depending on coordinates: the eigenvalues are ill-conditioned.
    assert spectral_abscissa(flipped) > 63
    assert spectral_radius(bilinear(flipped, B, 1e-3)[0]) > exact
    # With the right sign no computed eigenvalue leaves the numerical range, which ends at -1/2.
    assert numerical_abscissa(A) == pytest.approx(-0.5, abs=1e-9)
    assert spectral_radius(bilinear(A, B, 1e-3)[0]) == pytest.approx((1 - 5e-4) / (1 + 5e-4), abs=1e-8)
    assert spectral_radius(bilinear(A, B, 0.1)[0]) == pytest.approx(0.9047619, abs=1e-7)


def test_both_rules_preserve_stability_and_instability():
    stable, unstable = (
        torch.tensor([[-2.0, 30.0], [-30.0, -0.01]]),
        torch.tensor([[0.01, 30.0], [-30.0, 0.01]]),
    )
    B = torch.ones(2)
    for dt in (1e-3, 0.1, 10.0):
        for rule in (bilinear, zoh):
            assert spectral_radius(rule(stable, B, dt)[0]) < 1
            assert spectral_radius(rule(unstable, B, dt)[0]) > 1


def test_the_numerical_range_contains_every_eigenvalue():
    A = torch.randn(8, 8, dtype=torch.complex128)
    edge = numerical_range(A, points=400)
    for angle in torch.linspace(0, 2 * math.pi, 50, dtype=torch.float64):
        rotation = torch.exp(-1j * angle)
        assert (rotation * torch.linalg.eigvals(A)).real.max() <= (rotation * edge).real.max() + 1e-3
    assert edge.real.max() == pytest.approx(numerical_abscissa(A).item(), abs=1e-3)


def test_a_normal_matrix_has_the_hull_of_its_eigenvalues_as_numerical_range():
    A = torch.diag(torch.tensor([1 + 0j, -1 + 0j, 2j]))
    edge = numerical_range(A)
    assert numerical_abscissa(A) == spectral_abscissa(A) == 1
    assert edge.imag.min() == pytest.approx(0, abs=1e-9)


def test_growth_is_the_norm_of_a_power_and_infinite_beyond_the_largest_number():
    A_bar = torch.tensor([[0.9, 1.0], [0.0, 0.9]], dtype=torch.float64)
    power = torch.linalg.matrix_power(A_bar, 5)
    assert growth(A_bar, 5).item() == pytest.approx(torch.linalg.matrix_norm(power, ord=2).item())
    assert growth(A_bar, 0) == 1
    assert growth(A_bar, 9) > 1  # it grows at first although its eigenvalues are inside the unit circle
    assert growth(2 * A_bar, 100_000) == math.inf
    with pytest.raises(ValueError, match="steps must not be negative, got -1"):
        growth(A_bar, -1)


@pytest.mark.parametrize("A", [torch.zeros(2, 3), torch.zeros(2, 2, 2)])
def test_a_numerical_range_needs_one_square_matrix(A):
    with pytest.raises(ValueError, match="A must be one square matrix"):
        numerical_range(A)


@pytest.mark.slow
@pytest.mark.parametrize("form", BOUNDED)
@torch.no_grad()
def test_twenty_thousand_steps_of_random_layers_stay_bounded(form):
    """benchmarks/numerics/stability.py runs a million steps; the bound is that of a geometric series."""
    for seed in range(3):
        layer = random_layer(form, seed).float()
        recurrence = layer.recurrence().to(torch.float32)
        radius = growth(recurrence.dense().double(), 1)
        bound = recurrence.B.double().norm(dim=-1) / (1 - radius).clamp_min(1e-12)
        state, largest = layer.initial_state(1), torch.zeros(2, dtype=torch.float64)
        for u in torch.randn(20_000, 1, 2).clamp(-1, 1):
            state = recurrence.step(u, state)
            largest = torch.maximum(largest, state[0].double().norm(dim=-1))
        assert largest.isfinite().all()
        assert (largest <= 1.001 * bound).all()
