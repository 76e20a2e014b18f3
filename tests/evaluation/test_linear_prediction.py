"""The bits of linear prediction are a code length: causal and normalized, and near the entropy where that is
known."""

import math

import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.data import bundled
from sashimi_lib.evaluation import linear_prediction
from sashimi_lib.evaluation.coarsen import mulaw_edges
from sashimi_lib.evaluation.likelihood import bigram_bits
from sashimi_lib.evaluation.linear_prediction import fit_linear_prediction, linear_prediction_bits
from tests.awkward import without_shape_checks

RESONANCE = [1, -1.6, 0.9]  # x_t = 1.6 x_(t-1) - 0.9 x_(t-2) + noise
WIDTHS = mulaw_edges().diff().double() / 32_768  # of the codes, in amplitude


def resonance(scale: float, length: int, seed: int) -> Tensor:
    """Codes of an autoregressive process whose noise is logistic, of a given scale."""
    u = torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return MuLaw().encode(torch.from_numpy(lfilter([1], RESONANCE, scale * torch.logit(u))).float())


def entropy(scale: float, codes: Tensor) -> float:
    """The entropy of the noise, and so of its process, in bits, where codes are narrow: ln(scale) + 2 nats of
    a logistic density, less the logarithm of the width of a code."""
    return (math.log(scale) + 2) / math.log(2) - float(WIDTHS[codes].log2().mean())


def test_the_bits_of_an_autoregressive_process_are_its_entropy() -> None:
    train, test = resonance(0.02, 60_000, seed=0), resonance(0.02, 40_000, seed=1)
    bits = linear_prediction_bits(train, test, order=4)
    assert bits == pytest.approx(entropy(0.02, test), abs=0.02)
    assert bits < bigram_bits(train, test) - 1
    assert fit_linear_prediction(train, order=2).weights == pytest.approx([1.6, -0.9], abs=0.01)


def test_the_scale_follows_the_level_of_a_clip() -> None:
    train = [resonance(scale, 30_000, seed) for seed, scale in enumerate((0.02, 0.007))]
    for scale in (0.02, 0.007):
        test = resonance(scale, 30_000, seed=2)
        assert linear_prediction_bits(train, test, order=2) == pytest.approx(entropy(scale, test), abs=0.02)


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_the_probabilities_of_all_next_codes_sum_to_one(levels: int) -> None:
    codes = MuLaw(levels).encode(MuLaw().decode(resonance(0.02, 2000, seed=0)))
    predictor = fit_linear_prediction(codes, MuLaw(levels), order=3)
    for length in (0, 1, 2, 50):
        p = [2 ** -predictor.bits(torch.cat([codes[:length], torch.tensor([q])]))[-1] for q in range(levels)]
        assert float(sum(p)) == pytest.approx(1, abs=1e-12)
        assert min(p) > 0.99 * predictor.uniform / levels > 0


def test_the_bits_of_a_sample_depend_on_no_later_code() -> None:
    codes = resonance(0.02, 3000, seed=0)
    predictor = fit_linear_prediction(codes, order=8)
    changed = torch.cat([codes[:100], codes[100:200].flip(0)])
    assert torch.equal(predictor.bits(codes[:200])[:100], predictor.bits(changed)[:100])
    assert not torch.equal(predictor.bits(codes[:200])[100:], predictor.bits(changed)[100:])


def test_clips_are_weighted_by_length_and_begin_with_silence() -> None:
    train, test = resonance(0.02, 3000, seed=0), resonance(0.02, 3000, seed=1)
    predictor = fit_linear_prediction(train, order=4)
    bits = linear_prediction_bits(train, [test[:100], test[100:]], order=4)
    expected = (predictor.bits(test[:100]).sum() + predictor.bits(test[100:]).sum()) / 3000
    assert bits == pytest.approx(float(expected))
    assert linear_prediction_bits(train[None], test[None], order=4) == pytest.approx(
        linear_prediction_bits(train, test, order=4)
    )


def test_long_training_data_are_represented_by_segments_of_all_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_prediction, "FIT_SAMPLES", 40_000)
    monkeypatch.setattr(linear_prediction, "SEGMENT", 500)
    train = [resonance(0.02, 50_000, seed) for seed in range(4)]
    test = resonance(0.02, 20_000, seed=9)
    assert len(linear_prediction._segments(train, order=4)) == 80
    assert linear_prediction_bits(train, test, order=4) == pytest.approx(entropy(0.02, test), abs=0.02)


@pytest.mark.slow
def test_the_bundled_piano_needs_fewer_bits_than_by_the_table_of_chapter_1() -> None:
    clip = bundled.piano()
    assert linear_prediction_bits(MuLaw().encode(clip.train), MuLaw().encode(clip.test)) < 4.7


def test_constant_clips_need_next_to_no_bits() -> None:
    clip = torch.full((2000,), 77)
    assert linear_prediction_bits(clip, clip, order=4) < 0.05


@pytest.mark.parametrize(
    ("train", "test", "order", "message"),
    [
        (torch.tensor([256] * 9), torch.tensor([1]), 2, r"train must lie in 0\.\.255"),
        (torch.tensor([1] * 9), torch.tensor([-1]), 2, r"test must lie in 0\.\.255"),
        ([], torch.tensor([1]), 2, "train must hold at least one clip"),
        (torch.tensor([1] * 9), [], 2, "test must hold at least one clip"),
        (torch.tensor([1] * 9), torch.tensor([1]), 0, "order must be at least 1, got 0"),
        (torch.tensor([1] * 9), torch.tensor([1]), 9, "train must have a clip of more than 9 samples, got"),
    ],
)
def test_bad_arguments_are_refused_by_name(train: Tensor, test: Tensor, order: int, message: str) -> None:
    with without_shape_checks(), pytest.raises(ValueError, match=message):
        linear_prediction_bits(train, test, order=order)
