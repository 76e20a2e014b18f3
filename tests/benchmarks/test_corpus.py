"""Benchmarks hear recordings as they are, and judge every model on the same evenly spread excerpts."""

import pytest
import torch

from benchmarks.corpus import excerpts, fitted, load, pieces, whole, words
from sashimi_lib.audio import write
from sashimi_lib.audio.quantizers import MuLaw


def clips(*lengths):
    return [torch.full((length,), number) for number, length in enumerate(lengths)]


def test_a_corpus_is_loaded_by_split_and_brought_to_one_rate(tmp_path):
    for split, rate in (("train", 16_000), ("valid", 8000), ("test", 8000)):
        (tmp_path / split).mkdir()
        write(tmp_path / split / "a.wav", 0.1 * torch.sin(torch.arange(rate) * 0.05), rate)
    corpus = load(tmp_path, 8000, MuLaw())
    assert {split: [len(clip) for clip in codes] for split, codes in corpus.items()} == {
        "train": [8000],
        "valid": [8000],
        "test": [8000],
    }


def test_pieces_are_all_of_the_sound():
    codes = [torch.arange(10), torch.arange(4)]
    assert [len(piece) for piece in pieces(codes, 4)] == [4, 4, 2, 4]
    assert torch.equal(torch.cat(pieces(codes, 4)), torch.cat(codes))


def test_short_recordings_go_whole_and_remainders_of_long_ones_not_at_all():
    assert [len(clip) for clip in excerpts(clips(10, 3, 8), 4, 1000).clips] == [4, 4, 3, 4, 4]


def test_excerpts_come_from_all_recordings_and_are_about_as_many_as_asked_for():
    chosen = excerpts(clips(100, 100, 100), 10, 100)
    assert sum(map(len, chosen.clips)) == 100
    assert set(chosen.recordings) == {0, 1, 2}


def test_excerpts_know_which_recording_they_are_of():
    chosen = excerpts(clips(10, 3, 8, 25), 4, 20)
    assert [int(clip[0]) for clip in chosen.clips] == chosen.recordings
    assert len(chosen.clips) > 3
    assert whole(clips(4, 2)).recordings == [0, 1]


def test_words_say_what_they_are_and_whose(tmp_path):
    for name in ("7_theo_12", "0_lucas_3"):
        write(tmp_path / f"{name}.wav", torch.linspace(-0.5, 0.5, 800), 8000)
    found = words(tmp_path, 16_000)
    assert [(word.label, word.speaker, len(word.waveform)) for word in found] == [
        (0, "lucas", 1600),
        (7, "theo", 1600),
    ]


@pytest.mark.parametrize(
    ("silence", "length", "begins"),
    [(0, 400, 0), (300, 400, 0), (300, 1_000, 0), (300, 5_000, 300), (3_000, 3_500, 2_500)],
)
def test_silence_before_a_word_goes_where_there_is_no_room(silence, length, begins):
    tone = 0.02 * torch.sin(0.3 * torch.arange(1, 1_001)) + 0.1  # a quiet one, and an offset
    word = fitted(torch.cat([torch.full((silence,), 0.1), tone]), length)
    assert len(word) == length
    assert float(word.abs().max()) == pytest.approx(1, abs=0.05)
    assert int((word.abs() > 0.1).int().argmax()) == begins
    assert not word[begins + 1_000 :].any()


def test_silence_stays_silence():
    assert torch.equal(fitted(torch.zeros(10), 20), torch.zeros(20))
