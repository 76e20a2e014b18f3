"""Every interval in a result follows from the stored bits of each recording."""

import json

import pytest
import torch

from benchmarks.lib import evaluation
from benchmarks.lib.corpus import Excerpts


@pytest.fixture
def excerpts():
    lengths, recordings = (4, 4, 2, 3, 3, 5, 1), [0, 0, 1, 3, 4, 5, 5]
    return Excerpts([torch.zeros(length, dtype=torch.long) for length in lengths], recordings)


def test_a_summary_has_every_recording_once_and_follows_from_them(excerpts):
    bits = torch.tensor([3.0, 4.0, 5.0, 2.0, 4.0, 6.0, 3.0])
    summary = evaluation.summarize_bits(bits, excerpts)
    assert summary["bits"] == [3.5, 5.0, 2.0, 4.0, 5.5]
    assert summary["samples"] == [8, 2, 3, 3, 6]
    assert summary["mean"] == pytest.approx((28 + 10 + 6 + 12 + 33) / 22)
    low, high = summary["interval"]
    assert low < summary["mean"] < high
    again = json.loads(json.dumps(summary))
    assert evaluation.estimate(again) == {key: summary[key] for key in ("mean", "interval", "recordings")}


def test_two_recordings_have_a_mean_and_no_interval(excerpts):
    clips, recordings = (part[:3] for part in excerpts)
    summary = evaluation.summarize_bits(torch.tensor([3.0, 4.0, 5.0]), Excerpts(clips, recordings))
    assert summary["interval"] is None
    assert summary["recordings"] == 2


def summaries(value):
    """All dictionaries with an interval, at any depth."""
    if isinstance(value, dict):
        if "interval" in value:
            yield value
        for part in value.values():
            yield from summaries(part)
    elif isinstance(value, list):
        for part in value:
            yield from summaries(part)


def test_every_published_interval_is_that_of_the_recordings_stored_with_it(root):
    found = 0
    for path in (root / "book" / "results").glob("*.json"):
        figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
        assert '"low":' not in json.dumps(figures), path.name  # as they were, over pieces
        for summary in summaries(figures):
            found += 1
            if "bits" not in summary:  # only its mean was stored
                assert summary["interval"] is None, path.name
                continue
            again = evaluation.estimate(summary)
            assert summary["recordings"] == again["recordings"], path.name
            assert summary["mean"] == pytest.approx(again["mean"], abs=1e-9), path.name
            assert summary["interval"] == (again["interval"] and pytest.approx(list(again["interval"])))
    assert found > 30
