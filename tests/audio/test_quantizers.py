"""Quantizers: the published values, exact and approximate reconstruction, and invalid input."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib.audio.quantizers import CoarseFine, Linear, MuLaw, check_codes
from tests.awkward import bad_waveforms, good_waveforms, without_shape_checks

QUANTIZERS = [MuLaw(), MuLaw(64), Linear(), Linear(4), Linear(65536), CoarseFine()]


def test_mu_law_gives_the_codes_of_the_published_implementation() -> None:
    x = torch.tensor([-1, -0.5, -0.1, -0.01, 0, 0.01, 0.1, 0.5, 1])
    assert MuLaw().encode(x).tolist() == [0, 15, 52, 98, 128, 157, 203, 240, 255]


def test_mu_law_decodes_asymmetrically_as_published() -> None:
    x = MuLaw().decode(torch.tensor([0, 128, 255]))
    assert x[0] == -1
    assert x[1] == 0
    assert float(x[2]) == pytest.approx(0.957, abs=5e-4)


def test_a_mu_law_code_round_trips_to_one_less_above_the_middle() -> None:
    q = torch.arange(256)
    assert torch.equal(MuLaw().encode(MuLaw().decode(q)), q - (q > 128).long())


def test_coarse_fine_is_lossless_for_all_65536_values() -> None:
    x = torch.arange(-32768, 32768, dtype=torch.float32) / 32768
    codes = CoarseFine().encode(x)
    assert codes.shape == (65536, 2)
    assert torch.equal(256 * codes[:, 0] + codes[:, 1], torch.arange(65536))
    assert torch.equal(CoarseFine().decode(codes), x)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_silence_is_encoded_and_decoded_exactly(quantizer: MuLaw | Linear | CoarseFine) -> None:
    codes = quantizer.encode(torch.zeros(2, 5))
    assert torch.equal(codes, torch.tensor(quantizer.silence).expand_as(codes))
    assert torch.equal(quantizer.decode(codes), torch.zeros(2, 5))


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@given(x=good_waveforms())
def test_any_audio_is_reconstructed_within_one_step(
    quantizer: MuLaw | Linear | CoarseFine, x: torch.Tensor
) -> None:
    codes = quantizer.encode(x)
    check_codes(codes, quantizer.levels)
    y = quantizer.decode(codes)
    assert codes.dtype == torch.int64
    assert y.dtype == torch.float32
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    if isinstance(quantizer, Linear):
        assert float((x - y).abs().max()) <= 2.02 / quantizer.levels
    if isinstance(quantizer, MuLaw):  # a step near amplitude a is (a + 1/mu) * 2 log(1 + mu) / levels wide
        step = (torch.maximum(x.abs(), y.abs()) + 1 / (quantizer.levels - 1)) * 11.1 / quantizer.levels
        assert bool(((x - y).abs() <= 1.02 * step).all())


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@given(case=bad_waveforms())
def test_invalid_audio_is_named(
    quantizer: MuLaw | Linear | CoarseFine, case: tuple[torch.Tensor, str]
) -> None:
    bad, message = case
    with without_shape_checks(), pytest.raises(ValueError, match="waveform must.*" + re.escape(message)):
        quantizer.encode(bad)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.tensor([[0, 65536]]), "codes must lie in 0.."),
        (torch.tensor([[0, -1]]), "codes must lie in 0.."),
        (torch.tensor([[0.0, 1.0]]), "integers"),
        (torch.tensor([[True, False]]), "integers"),
        (torch.zeros(0, 2, dtype=torch.long), "at least one code"),
        (torch.tensor(3), "at least one code"),
        ([1, 2], "torch tensor"),
    ],
)
def test_invalid_codes_are_named(
    quantizer: MuLaw | Linear | CoarseFine, codes: torch.Tensor, message: str
) -> None:
    with without_shape_checks(), pytest.raises(ValueError, match=re.escape(message)):
        quantizer.decode(codes)


def test_coarse_fine_requires_a_last_axis_of_two() -> None:
    for codes in (torch.zeros(5, dtype=torch.long), torch.zeros(5, 3, dtype=torch.long)):
        with without_shape_checks(), pytest.raises(ValueError, match=r"shape \(..., L, 2\)"):
            CoarseFine().decode(codes)


@given(st.one_of(st.integers(-10, 1), st.integers(65537, 10**6), st.just(255), st.just(256.0), st.just(True)))
def test_invalid_levels_are_refused(levels: object) -> None:
    for quantizer in (MuLaw, Linear):
        with without_shape_checks(), pytest.raises(ValueError, match="levels must be an even integer"):
            quantizer(levels)
