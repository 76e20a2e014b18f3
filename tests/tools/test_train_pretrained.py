"""Stages follow one another from where their checkpoints stand, and after the last one it starts again."""

import itertools
from dataclasses import replace

import pytest
import torch

from sashimi_lib.evaluation.likelihood import bigram_bits, clip_bits, mean_bits
from sashimi_lib.evaluation.linear_prediction import linear_prediction_bits
from sashimi_lib.models import SaShiMiConfig, WaveRNNConfig
from sashimi_lib.pretrained import bundled_bits
from sashimi_lib.pretrained.bundled import BUNDLED_CLIPS
from sashimi_lib.training.checkpoint import save_checkpoint
from tools import train_pretrained
from tools.train_pretrained import (
    BROAD,
    FINE,
    TASKS,
    best_weights,
    evaluate,
    total_training,
    train_stages,
    training_hours,
    untrained_model,
)

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


def test_hours_are_those_of_all_stages_up_to_the_best_weights(corpus, tmp_path, monkeypatch):
    clock = itertools.count(step=3600)  # an hour from each reading to the next
    monkeypatch.setattr("sashimi_lib.training.trainer.time.process_time", lambda: float(next(clock)))
    trained(corpus, tmp_path, early_stopping_patience=10)
    best = {"steps": 3, "seconds": 3 * 3600.0}
    assert training_hours("tiny", 2, best, tmp_path) == 4 + 2 + 3
    stage, best = best_weights("tiny", TINY, tmp_path)
    assert training_hours("tiny", stage, best, tmp_path) == total_training(TINY, stage, best["steps"])[0]


def test_hours_are_unknown_where_a_checkpoint_has_none(corpus, tmp_path):
    trained(corpus, tmp_path, early_stopping_patience=6)
    assert training_hours("tiny", 1, {"steps": 2}, tmp_path) is None
    assert training_hours("tiny", 1, {"steps": 2, "seconds": 5.0}, tmp_path) > 5 / 3600
    assert training_hours("tiny", 1, {"steps": 2, "seconds": 5.0}, tmp_path / "elsewhere") is None
    path = train_pretrained.checkpoint_path("tiny", 0, tmp_path)
    content = train_pretrained.load_checkpoint(path)
    content["history"].pop("seconds")
    save_checkpoint(path, content)
    assert training_hours("tiny", 1, {"steps": 2, "seconds": 5.0}, tmp_path) is None


@pytest.mark.parametrize("bundled_clips", ["", pytest.param("tunes", marks=pytest.mark.slow)])
def test_the_figures_of_a_card_are_those_of_the_test_recordings(bundled_clips):
    task = replace(TINY, sample_rate=8000, bundled_clips=bundled_clips)
    corpus = {
        "train": [torch.randint(100, 150, (2000,))],
        "test": [torch.randint(100, 150, (length,)) for length in (500, 900, 70_000, 400, 100)],
    }
    model = untrained_model(task)
    figures = evaluate(task, model, corpus)
    test = [*corpus["test"][:2], corpus["test"][2][:64_000], *corpus["test"][3:]]
    bits = clip_bits(model, test)
    low, high = figures.pop("test_interval")
    assert low < figures["test_bits"] < high
    if bundled_clips:
        assert figures.pop("bundled_bits") == bundled_bits(model, 8000, "tunes")
        assert figures.pop("bundled_clips") == "tunes"
    assert figures == pytest.approx(
        {
            "test_bits": mean_bits(bits, test, range(5)).mean,
            "test_recordings": 5,
            "bigram_bits": bigram_bits(corpus["train"], test),
            "linear_prediction_bits": linear_prediction_bits(corpus["train"], test),
        },
        rel=1e-5,
    )


def test_16_bit_models_have_no_baselines():
    task = replace(TASKS["wavernn"], config=WaveRNNConfig(8), bundled_clips="")
    codes = {split: [torch.randint(0, 256, (100, 2))] for split in ("train", "test")}
    figures = evaluate(task, untrained_model(task), codes)
    assert figures.keys() == {"test_bits", "test_interval", "test_recordings"}
    assert figures["test_interval"] is None


def test_every_task_names_the_bundled_clips_of_its_rate():
    for task in TASKS.values():
        assert task.sample_rate == BUNDLED_CLIPS[task.bundled_clips]()[0].sample_rate
    assert TASKS["tunes"].bundled_clips == "tunes"


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
