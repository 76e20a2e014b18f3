"""Stages follow one another from where their checkpoints stand, and after the last one it starts again."""

import itertools
from dataclasses import replace

import pytest
import torch

from sashimi_lib.models import SaShiMiConfig
from tools import train_pretrained
from tools.train_pretrained import BROAD, FINE, TASKS, best_weights, total_training, train_stages

TINY = replace(
    TASKS["piano"],
    config=SaShiMiConfig(d_model=4, n_layers=1),
    stages=(
        (32, replace(BROAD, steps=4, batch_size=2, valid_every=2)),
        (64, replace(FINE, steps=2, batch_size=1, valid_every=1)),
    ),
)


@pytest.fixture
def corpus():
    return {split: [torch.randint(100, 150, (256,))] for split in ("train", "valid", "test")}


def trained(corpus, runs, early_stopping_patience):
    """Steps of each stage that this call ends, in at most so many steps."""
    steps = itertools.count(1)
    over = False

    def stop():
        nonlocal over
        over = next(steps) >= early_stopping_patience
        return over

    ended = {}
    for stage, history in train_stages(
        "tiny", TINY, itertools.repeat(corpus), runs, stop=stop, progress=False
    ):
        ended[stage] = len(history.loss)
        if over:
            break
    return ended


def test_after_the_last_stage_it_starts_again_for_twice_as_long(corpus, tmp_path):
    assert trained(corpus, tmp_path, early_stopping_patience=4 + 2 + 4 + 3) == {0: 4, 1: 2, 2: 4, 3: 3}
    assert TINY.stage(3)[1] == replace(TINY.stages[1][1], steps=8, seed=2)


def test_a_next_call_goes_on_from_the_last_checkpoint(corpus, tmp_path):
    assert trained(corpus, tmp_path / "parts", early_stopping_patience=5) == {0: 4, 1: 1}
    assert trained(corpus, tmp_path / "parts", early_stopping_patience=3) == {1: 2, 2: 2}
    trained(corpus, tmp_path / "whole", early_stopping_patience=8)
    parts, whole = (
        train_pretrained.load_checkpoint(train_pretrained.checkpoint_path("tiny", 2, tmp_path / runs))[
            "model"
        ]
        for runs in ("parts", "whole")
    )
    assert all(torch.equal(x, parts[name]) for name, x in whole.items())


def test_the_best_weights_of_the_last_stages_are_found(corpus, tmp_path):
    with pytest.raises(ValueError, match="the last stage of tiny must have been validated once"):
        best_weights("tiny", TINY, tmp_path)
    trained(corpus, tmp_path, early_stopping_patience=10)
    stage, best = best_weights("tiny", TINY, tmp_path)
    assert stage in (1, 2)
    last = train_pretrained.load_checkpoint(
        train_pretrained.best_of(train_pretrained.checkpoint_path("tiny", 2, tmp_path))
    )
    assert best["loss"] <= last["loss"]


def test_training_is_counted_over_all_stages():
    assert total_training(TINY, 2, 3) == (4 + 2 + 3, 4 * 64 + 2 * 64 + 3 * 64)
    assert total_training(TINY, 0, 4) == (4, 256)


def test_words_are_concatenated_and_music_is_cut(corpus):
    music, valid = TASKS["piano"].sequences(corpus, 100)
    assert [len(piece) for piece in music] == [100, 100, 56]
    assert len(valid) == 1
    words, whole = TASKS["digits"].sequences(corpus, 1000)
    assert {len(sequence) for sequence in words} == {1000}
    assert whole is corpus["valid"]


def test_weights_of_early_steps_are_kept(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(train_pretrained, "KEPT_STEPS", (2, 4))
    trained(corpus, tmp_path, early_stopping_patience=5)
    early, late = (
        train_pretrained.load_checkpoint(train_pretrained.kept_path("tiny", step, tmp_path))
        for step in (2, 4)
    )
    assert (early["steps"], late["steps"]) == (2, 4)
    assert any(not torch.equal(x, late["model"][name]) for name, x in early["model"].items())
    assert not train_pretrained.kept_path("tiny", 3, tmp_path).exists()
