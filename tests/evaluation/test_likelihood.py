"""Counting tables: what they must give, and the figures known for the corpora beside the repository."""

import csv
import io
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib.autoregressive import AudioLM
from sashimi_lib.evaluation.likelihood import (
    bigram_bits,
    bigram_table,
    clip_bits,
    mean_bits,
    unigram_bits,
    unigram_table,
)
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.quantize import MuLaw
from tests.awkward import as_a_reader

CODES = st.lists(st.integers(0, 7), min_size=1, max_size=60).map(torch.tensor)


@given(CODES, CODES)
def test_tables_are_distributions_and_bits_are_finite(a: torch.Tensor, b: torch.Tensor) -> None:
    assert float(unigram_table(a, 8).sum()) == pytest.approx(1)
    torch.testing.assert_close(bigram_table([a, b], 8).sum(1), torch.ones(8, dtype=torch.float64))
    for bits in (unigram_bits(a, b, 8), bigram_bits(a, b, 8)):
        assert 0 < bits < 20


def test_noise_costs_its_entropy_and_no_table_does_better() -> None:
    train, test = torch.randint(0, 4, (2, 200_000)), torch.randint(0, 4, (20_000,))
    assert unigram_bits(train, test, 4) == pytest.approx(2, abs=1e-3)
    assert bigram_bits(train, test, 4) == pytest.approx(2, abs=1e-3)


def test_an_untrained_table_costs_chance() -> None:
    never_seen = torch.arange(1, 256)
    assert unigram_bits(torch.tensor([0]), never_seen) == pytest.approx(math.log2(257), abs=1e-9)


def test_clips_do_not_run_into_each_other() -> None:
    table = bigram_table([torch.tensor([0, 0]), torch.tensor([3, 3])], 4)
    assert table[0, 3] == table[0, 1]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.tensor([256]), r"train must lie in 0\.\.255"),
        (torch.tensor([0.5]), "train must be whole numbers"),
        ([], "train must hold at least one clip"),
        ([torch.tensor([1]), torch.tensor([-1])], r"train\[1\] must lie in"),
        ([torch.zeros(2, 2, dtype=torch.long)], r"train\[0\] must have shape"),
    ],
)
def test_bad_codes_are_named(codes: torch.Tensor, message: str) -> None:
    with as_a_reader():
        for bits in (unigram_bits, bigram_bits):
            with pytest.raises(ValueError, match=message):
                bits(codes, torch.tensor([1]))


def corpus_codes(pcm: np.ndarray) -> torch.Tensor:
    """The mu-law formula that the corpora's table was made with; it differs a little from the paper's."""
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


def test_clips_cost_the_same_alone_together_and_in_pieces():
    model, clips = small_model(), clips_of(30, 100, 57, 4)
    alone = torch.stack([-model.log_likelihood(clip[None]).mean() for clip in clips]).detach()
    for batch_size, frame in ((1, 1000), (3, 1000), (4, 17)):
        together = clip_bits(model, clips, batch_size, frame)
        torch.testing.assert_close(together, alone.double(), rtol=1e-5, atol=0)


def test_a_clip_of_codes_that_a_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"clips\[1\]"):
        clip_bits(small_model(), [torch.tensor([1, 2]), torch.tensor([300])])


def test_longer_clips_weigh_more():
    clips = clips_of(300, 100)
    assert mean_bits(torch.tensor([2.0, 6.0]), clips).mean == pytest.approx(3.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    clips = torch.zeros(40, 10, dtype=torch.long)
    hits = 0
    for trial in range(60):
        low, high = mean_bits(5 + torch.randn(40, generator=generator), clips, seed=trial)[1:]
        hits += low < 5 < high
    assert 50 <= hits <= 60  # 57 expected


def test_equal_clips_leave_no_doubt():
    assert mean_bits(torch.full((3,), 4.0), torch.zeros(3, 10, dtype=torch.long)) == (4.0, 4.0, 4.0)


def test_one_clip_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 clips, got 1"):
        mean_bits(torch.tensor([4.0]), torch.zeros(1, 10, dtype=torch.long))
