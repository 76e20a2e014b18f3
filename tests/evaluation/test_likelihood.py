"""Bits per sample of tables and models, and confidence intervals; known values for four corpora."""

import csv
import io
import math
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.evaluation.likelihood import (
    bigram_bits,
    bigram_table,
    bits_per_recording,
    clip_bits,
    confidence_interval,
    mean_bits,
    unigram_bits,
    unigram_table,
)
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from tests.awkward import without_shape_checks

CODES = st.lists(st.integers(0, 7), min_size=1, max_size=60).map(torch.tensor)


@given(CODES, CODES)
def test_tables_are_distributions_and_bits_are_finite(a: torch.Tensor, b: torch.Tensor) -> None:
    assert float(unigram_table(a, 8).sum()) == pytest.approx(1)
    torch.testing.assert_close(bigram_table([a, b], 8).sum(1), torch.ones(8, dtype=torch.float64))
    for bits in (unigram_bits(a, b, 8), bigram_bits(a, b, 8)):
        assert 0 < bits < 20


def test_the_bits_of_noise_are_its_entropy() -> None:
    train, test = torch.randint(0, 4, (2, 200_000)), torch.randint(0, 4, (20_000,))
    assert unigram_bits(train, test, 4) == pytest.approx(2, abs=1e-3)
    assert bigram_bits(train, test, 4) == pytest.approx(2, abs=1e-3)


def test_unseen_codes_have_the_probability_of_one_count() -> None:
    never_seen = torch.arange(1, 256)
    assert unigram_bits(torch.tensor([0]), never_seen) == pytest.approx(math.log2(257), abs=1e-9)


def test_bigrams_do_not_cross_clips() -> None:
    table = bigram_table([torch.tensor([0, 0]), torch.tensor([3, 3])], 4)
    assert table[0, 3] == table[0, 1]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.tensor([256]), r"train must lie in 0\.\.255"),
        (torch.tensor([0.5]), "train must be integers"),
        ([], "train must hold at least one clip"),
        ([torch.tensor([1]), torch.tensor([-1])], r"train\[1\] must lie in"),
        ([torch.zeros(2, 2, dtype=torch.long)], r"train\[0\] must have shape"),
    ],
)
def test_bad_codes_are_refused_by_name(codes: torch.Tensor, message: str) -> None:
    with without_shape_checks():
        for bits in (unigram_bits, bigram_bits):
            with pytest.raises(ValueError, match=message):
                bits(codes, torch.tensor([1]))


def corpus_codes(pcm: np.ndarray) -> torch.Tensor:
    """Encode with the mu-law formula of the expected values, recording differs slightly from the paper's."""
    x = pcm.astype(np.float64) / 32768
    y = (np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256) + 1) / 2
    return torch.from_numpy(np.clip(np.floor(y * 256), 0, 255).astype(np.int64))


def corpus(folder: Path) -> dict[str, list[torch.Tensor]]:
    listing = next(
        path for name in ("pieces.csv", "splits.csv", "prompts.csv") if (path := folder / name).is_file()
    )
    parts: dict[str, list[torch.Tensor]] = {"train": [], "valid": [], "test": []}
    archives = [
        zipfile.ZipFile(path) for path in (folder / "fsdd.zip", folder / "prompts.zip") if path.is_file()
    ]
    entries = {Path(name).name: (z, name) for z in archives for name in z.namelist()}
    by_path = {name: z for z in archives for name in z.namelist()}
    with listing.open() as rows:
        for row in csv.DictReader(rows):
            name = row["file"]
            if (folder / name).is_file():
                pcm, _ = soundfile.read(folder / name, dtype="int16")
            else:
                z, inner = (by_path[name], name) if name in by_path else entries[Path(name).name]
                pcm, _ = soundfile.read(io.BytesIO(z.read(inner)), dtype="int16")
            parts[row["split"]].append(corpus_codes(pcm))
    return parts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "unigram_test", "bigram_train", "bigram_valid", "bigram_test"),
    [
        ("digits", 7.03, 5.23, 5.15, 5.20),
        ("piano_bach", 7.53, 5.00, 5.13, 5.14),
        ("piano_beethoven_synth", 7.34, 5.73, 5.71, 5.79),
        ("speech", 7.45, 5.45, 5.39, 5.44),
    ],
)
def test_the_tables_of_the_corpora_are_reproduced(
    shared: Path, name: str, unigram_test: float, bigram_train: float, bigram_valid: float, bigram_test: float
) -> None:
    parts = corpus(shared / "data" / name)
    assert unigram_bits(parts["train"], parts["test"]) == pytest.approx(unigram_test, abs=0.02)
    for part, expected in (("train", bigram_train), ("valid", bigram_valid), ("test", bigram_test)):
        assert bigram_bits(parts["train"], parts[part]) == pytest.approx(expected, abs=0.02), part


def small_model():
    return AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=4, n_layers=1, pool=(4,)))).double()


def clips_of(*lengths):
    return [torch.randint(0, 256, (length,)) for length in lengths]


def test_bits_of_a_clip_do_not_depend_on_batch_or_chunk():
    model, clips = small_model(), clips_of(30, 100, 57, 4)
    alone = torch.stack([-model.log_likelihood(clip[None]).mean() for clip in clips]).detach()
    for batch_size, chunk_length in ((1, 1000), (3, 1000), (4, 17)):
        together = clip_bits(model, clips, batch_size, chunk_length)
        torch.testing.assert_close(together, alone.double(), rtol=1e-5, atol=0)


def test_codes_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"clips\[1\]"):
        clip_bits(small_model(), [torch.tensor([1, 2]), torch.tensor([300])])


def test_clips_are_weighted_by_length():
    clips = clips_of(300, 100)
    assert mean_bits(torch.tensor([2.0, 6.0]), clips, ["a", "b"]).mean == pytest.approx(3.0)


def test_clips_of_one_recording_count_as_one():
    clips, bits = clips_of(30, 10, 20, 40), torch.tensor([4.0, 8.0, 3.0, 6.0])
    values, samples = bits_per_recording(bits, clips, ["a", "a", "b", "c"])
    assert values.tolist() == [5.0, 3.0, 6.0]
    assert samples.tolist() == [40, 20, 40]
    assert mean_bits(bits, clips, ["a", "a", "b", "c"]).recordings == 3


def test_the_order_of_clips_makes_no_difference():
    clips, bits, names = clips_of(*range(5, 17)), torch.rand(12), "aabbbccddeef"
    order = torch.randperm(12)
    first, second = (
        mean_bits(bits, clips, names),
        mean_bits(bits[order], [clips[i] for i in order], [names[i] for i in order]),
    )
    assert first.mean == pytest.approx(second.mean)
    assert first.interval == pytest.approx(second.interval)


def simulated_coverage(recordings: int, unequal: float = 0.0, trials: int = 1_000) -> float:
    """Return how often the interval contains the true 5 bits: recordings of about 15 clips, with a standard
    deviation of 0.3 between and within recordings; ``unequal`` is that of the logarithm of their lengths."""
    generator, hits = torch.Generator().manual_seed(recordings), 0
    for _ in range(trials):
        lengths = 15 * torch.exp(unequal * torch.randn(recordings, generator=generator))
        recording = torch.arange(recordings).repeat_interleave(lengths.round().long().clamp(min=1))
        between, within = (torch.randn(count, generator=generator) for count in (recordings, len(recording)))
        bits = 5 + 0.3 * between[recording] + 0.3 * within
        low, high = mean_bits(
            bits, torch.zeros(len(recording), 64, dtype=torch.long), recording.tolist()
        ).interval
        hits += low < 5 < high
    return hits / trials


MANY = [pytest.param(number, marks=pytest.mark.slow) for number in (20, 50)]


@pytest.mark.parametrize("recordings", [5, 8, *MANY])
def test_intervals_have_a_coverage_of_95_percent(recordings):
    assert 0.93 < simulated_coverage(recordings) < 0.97


@pytest.mark.parametrize("recordings", [5, 8, *MANY])
def test_intervals_over_recordings_of_unequal_lengths_have_nearly_that_coverage(recordings):
    assert 0.90 < simulated_coverage(recordings, unequal=0.6) < 0.98


@given(st.integers(5, 12), st.integers(0, 100))
def test_for_recordings_of_equal_length_it_is_students_interval(recordings, seed):
    bits = torch.randn(recordings, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    student = stats.ttest_1samp(bits.numpy(), 0).confidence_interval(0.95)
    interval = confidence_interval(bits, torch.full((recordings,), 70)).interval
    assert interval == pytest.approx((student.low, student.high))


def test_the_variance_is_that_of_the_jackknife():
    bits, samples = torch.rand(6, dtype=torch.float64), torch.tensor([10, 200, 30, 70, 5, 90])
    mean, interval, m = confidence_interval(bits, samples)
    others = [torch.arange(6) != index for index in range(6)]
    leave_one_out = [float(bits[rows] @ samples[rows].double() / samples[rows].sum()) for rows in others]
    error = math.sqrt((m - 1) / m * sum((value - mean) ** 2 for value in leave_one_out))
    half = 2.5705818 * error  # Student's t with 5 degrees of freedom
    assert interval == pytest.approx((mean - half, mean + half))


def test_a_paired_difference_has_a_narrower_interval():
    difficulty, samples = 5 + torch.randn(8), torch.full((8,), 100)
    a, b = difficulty + 0.01 * torch.randn(8), difficulty + 0.2 + 0.01 * torch.randn(8)
    assert (
        confidence_interval(a, samples).interval[1] > confidence_interval(b, samples).interval[0]
    )  # they overlap
    assert confidence_interval(a - b, samples).interval[1] < 0


def test_equal_recordings_have_an_interval_of_width_zero():
    estimate = confidence_interval(torch.full((7,), 4.0), torch.arange(1, 8))
    assert estimate.mean == 4.0
    assert estimate.interval == pytest.approx((4.0, 4.0))


def test_fewer_than_five_recordings_have_no_interval():
    clips, bits = clips_of(*[10] * 60), torch.rand(60)
    assert mean_bits(bits, clips, [index % 4 for index in range(60)])[1:] == (None, 4)
    assert mean_bits(bits, clips, [index % 5 for index in range(60)]).interval is not None


def test_40_000_recordings_take_little_memory_and_time():
    bits, clips = torch.rand(40_000), torch.zeros(40_000, 2, dtype=torch.long)
    tracemalloc.start()
    began = time.process_time()
    low, high = mean_bits(bits, clips, range(40_000)).interval
    took, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < high - low < 0.01
    assert peak < 50 * 2**20
    assert took < 10


@pytest.mark.parametrize(
    ("bits", "names", "message"),
    [
        (2, "a", "must be equally many, at least one, got 2, 2 and 1"),
        (1, "ab", "got 1, 2 and 2"),
    ],
)
def test_bits_clips_and_recordings_must_have_equal_lengths(bits, names, message):
    with pytest.raises(ValueError, match=message):
        mean_bits(torch.zeros(bits), clips_of(10, 10), names)


def test_a_recording_without_samples_is_refused():
    with pytest.raises(ValueError, match="samples must be at least 1"):
        confidence_interval(torch.zeros(5), torch.tensor([1, 1, 1, 1, 0]))
