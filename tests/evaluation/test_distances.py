"""Distances between generated and real audio: zero for equal sets, known values, and their invariances."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.evaluation.distances import frechet, spectrum_distance, stft_distance

MEL = LogMelConfig(8_000, n_mels=20, hop=100, window=400)


def vectors(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def rotation(d):
    return torch.linalg.qr(vectors(d, d, seed=9)).Q


def with_covariance(factor, n=60, mean=0.0):
    """Return vectors with exactly this sample mean, and the covariance ``factor^T factor``."""
    white = vectors(n, len(factor))
    white = white - white.mean(dim=0)
    white = torch.linalg.qr(white).Q * (n - 1) ** 0.5
    return mean + white @ factor


@pytest.mark.parametrize(("n", "d"), [(50, 8), (5, 8), (2, 8), (2000, 64)])
def test_equal_sets_are_at_distance_zero(n, d):
    a = vectors(n, d) * 100
    assert frechet(a, a) < 1e-9 * 1e4 * d
    assert frechet(a, a.flip(0)) < 1e-9 * 1e4 * d


def test_a_shifted_mean_counts_its_square():
    a = vectors(40, 5)
    assert frechet(a, a + torch.tensor([3.0, 0, 0, 4, 0])) == pytest.approx(25)


def test_diagonal_covariances_give_the_squared_difference_of_deviations():
    s, t = torch.tensor([1.0, 2, 3]).double(), torch.tensor([4.0, 0.5, 3]).double()
    a, b = with_covariance(s.diag()), with_covariance(t.diag(), n=80, mean=2.0)
    assert frechet(a, b) == pytest.approx(float((s - t).square().sum()) + 3 * 4)


def test_any_covariances_agree_with_the_matrix_square_root():
    a, b = vectors(50, 6) @ vectors(6, 6, 1), vectors(70, 6, 2) @ vectors(6, 6, 3) + 1
    A, B = torch.cov(a.T), torch.cov(b.T)
    root = torch.from_numpy(sqrtm((A @ B).numpy()).real)
    expected = (a.mean(0) - b.mean(0)).square().sum() + (A + B - 2 * root).trace()
    assert frechet(a, b) == pytest.approx(float(expected))
    assert frechet(b, a) == pytest.approx(float(expected))


@pytest.mark.parametrize("n", [3, 30])  # fewer vectors than the width, too
def test_a_rotation_of_both_changes_nothing(n):
    a, b, turn = vectors(n, 8), 2 * vectors(40, 8, 1) + 1, rotation(8)
    assert frechet(a @ turn, b @ turn) == pytest.approx(frechet(a, b))
    assert frechet(a @ turn, b) != pytest.approx(frechet(a, b), rel=1e-3)


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_one_dimension_is_the_formula(s, t):
    a = with_covariance(torch.tensor([[1.0]]).double())
    assert frechet(s * a, t * a + 3) == pytest.approx((s - t) ** 2 + 9, rel=1e-6)


def test_constant_features_are_accepted():
    a = vectors(30, 4) * torch.tensor([1.0, 0, 1, 0])
    assert frechet(a, a) < 1e-12
    expected = torch.cov(a.T).trace() + a.mean(0).square().sum()
    assert frechet(a, torch.zeros(2, 4)) == pytest.approx(float(expected))


def test_it_is_computed_in_float64():
    """In float32 the variance would be lost beside a large mean."""
    a = vectors(50, 4).float() + 1000
    assert frechet(a, a + 0.5) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3), "a must hold at least two vectors, all finite, got 1 with 0"),
        (torch.zeros(5, 3), torch.zeros(0, 3), "b must hold at least two vectors, all finite, got 0 with 0"),
        (torch.zeros(5, 3), torch.full((5, 3), torch.nan), "b must .* got 5 with 15 NaN or infinite"),
        (torch.zeros(5, 3), torch.zeros(5, 4), "b must hold vectors as wide as those of a, 3, got 4"),
    ],
)
def test_invalid_sets_of_vectors_are_refused_by_name(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet(a, b)


# Spectra


def noise(batch, length=4_000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (0.2 * torch.randn(batch, length, generator=generator)).clamp(-1, 1)


def test_spectra_of_the_same_noise_are_close_for_any_phases_and_lengths():
    assert spectrum_distance(noise(4), noise(4), MEL) == 0
    assert spectrum_distance(noise(8), noise(9, 3_000, seed=1), MEL) < 0.3


def test_twenty_decibels_are_twenty_decibels():
    assert spectrum_distance(0.1 * noise(3), noise(3), MEL) == pytest.approx(20, abs=0.1)


def test_low_pass_noise_is_far_from_white_noise():
    dull = (noise(8) + noise(8).roll(1, dims=1)) / 2
    assert 3 < spectrum_distance(dull, noise(8, seed=1), MEL) < 20


# Pairs


def test_a_waveform_is_at_distance_zero_from_itself_and_farther_with_more_noise():
    real = noise(2)
    assert torch.equal(stft_distance(real, real), torch.zeros(2))
    distances = [
        float(stft_distance((real + s * noise(2, seed=1)).clamp(-1, 1), real).mean()) for s in (0.1, 0.5)
    ]
    assert 0 < distances[0] < distances[1]


def test_a_quarter_of_the_amplitude_is_at_its_known_distance():
    expected = torch.full((2,), 0.75 + math.log(4))
    assert torch.allclose(stft_distance(0.25 * noise(2), noise(2)), expected, atol=1e-2)


def test_the_sign_makes_no_difference():
    assert torch.allclose(stft_distance(-noise(2), noise(2)), torch.zeros(2), atol=1e-6)


def test_pairs_are_independent():
    real = noise(2) * torch.tensor([[1.0], [0.01]])
    generated = real * torch.tensor([[1.0], [0.25]])
    distances = stft_distance(generated, real)
    assert distances[0] == 0
    assert distances[1:] == stft_distance(generated[1:], real[1:])
    assert distances[1] > 0.75  # the norm of both together would leave a hundredth of that


@pytest.mark.parametrize(
    ("generated", "real", "message"),
    [
        (torch.zeros(1, 1_024), torch.zeros(1, 1_024), "real must be longer than 1024 samples, got 1024"),
        (torch.full((1, 2_000), 2.0), torch.zeros(1, 2_000), r"generated must lie in \[-1, 1\]"),
        (torch.zeros(1, 2_000), torch.full((1, 2_000), torch.nan), "real must be finite"),
    ],
)
def test_invalid_pairs_of_waveforms_are_refused_by_name(generated, real, message):
    with pytest.raises(ValueError, match=message):
        stft_distance(generated, real)


def test_without_auraloss_the_error_names_the_extra(without_package):
    without_package("auraloss")
    with pytest.raises(ImportError, match=r'pip install "sashimi_lib\[vocoder\]"'):
        stft_distance(noise(1), noise(1))
