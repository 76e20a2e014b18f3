"""Every interval in a result follows from what was kept of each recording."""

import importlib
import json

import pytest
import torch


@pytest.fixture
def verdict(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))  # as when it is run as a script
    return importlib.import_module("verdict")


@pytest.fixture
def excerpts(verdict):
    lengths, recordings = (4, 4, 2, 3, 3, 5, 1), [0, 0, 1, 3, 4, 5, 5]
    return verdict.Excerpts([torch.zeros(length, dtype=torch.long) for length in lengths], recordings)


def test_a_verdict_holds_every_recording_once_and_follows_from_them(verdict, excerpts):
    bits = torch.tensor([3.0, 4.0, 5.0, 2.0, 4.0, 6.0, 3.0])
    judged = verdict.verdict(bits, excerpts)
    assert judged["bits"] == [3.5, 5.0, 2.0, 4.0, 5.5]
    assert judged["samples"] == [8, 2, 3, 3, 6]
    assert judged["mean"] == pytest.approx((28 + 10 + 6 + 12 + 33) / 22)
    low, high = judged["interval"]
    assert low < judged["mean"] < high
    again = json.loads(json.dumps(judged))
    assert verdict.estimated(again) == {key: judged[key] for key in ("mean", "interval", "recordings")}


def test_two_recordings_have_a_mean_and_no_interval(verdict, excerpts):
    clips, recordings = (part[:3] for part in excerpts)
    judged = verdict.verdict(torch.tensor([3.0, 4.0, 5.0]), verdict.Excerpts(clips, recordings))
    assert judged["interval"] is None
    assert judged["recordings"] == 2


def judgements(value):
    """All dictionaries with an interval, wherever they are."""
    if isinstance(value, dict):
        if "interval" in value:
            yield value
        for part in value.values():
            yield from judgements(part)
    elif isinstance(value, list):
        for part in value:
            yield from judgements(part)


def test_every_interval_that_is_published_is_that_of_the_recordings_kept_with_it(verdict, root):
    found = 0
    for path in (root / "book" / "results").glob("*.json"):
        figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
        assert '"low":' not in json.dumps(figures), path.name  # as they were, over pieces
        for judged in judgements(figures):
            found += 1
            if "bits" not in judged:  # only its mean was kept
                assert judged["interval"] is None, path.name
                continue
            again = verdict.estimated(judged)
            assert judged["recordings"] == again["recordings"], path.name
            assert judged["mean"] == pytest.approx(again["mean"], abs=1e-9), path.name
            assert judged["interval"] == (again["interval"] and pytest.approx(list(again["interval"])))
    assert found > 30
