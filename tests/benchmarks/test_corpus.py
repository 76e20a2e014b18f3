"""Recordings are read unchanged, and every model is evaluated on the same evenly spread excerpts."""

import torch

from benchmarks.lib.corpus import (
    LabelledAudio,
    excerpts,
    load_codes,
    load_words,
    segments,
    whole_recordings,
)
from sashimi_lib.audio import read, resample, write
from sashimi_lib.audio.quantizers import MuLaw


def clips(*lengths):
    return [torch.full((length,), number) for number, length in enumerate(lengths)]


def test_a_corpus_is_loaded_by_split_and_resampled_to_one_rate(tmp_path):
    for split, rate in (("train", 16_000), ("valid", 8000), ("test", 8000)):
        (tmp_path / split).mkdir()
        write(tmp_path / split / "a.wav", 0.1 * torch.sin(torch.arange(rate) * 0.05), rate)
    corpus = load_codes(tmp_path, 8000, MuLaw())
    assert {split: [len(clip) for clip in codes] for split, codes in corpus.items()} == {
        "train": [8000],
        "valid": [8000],
        "test": [8000],
    }
    expected = MuLaw().encode(resample(*read(tmp_path / "train" / "a.wav"), 8000))
    assert torch.equal(corpus["train"][0], expected)
    assert load_codes(tmp_path, 8000, MuLaw(), splits=("test",)).keys() == {"test"}


def test_segments_cover_every_recording():
    codes = [torch.arange(10), torch.arange(4)]
    assert [len(segment) for segment in segments(codes, 4)] == [4, 4, 2, 4]
    assert torch.equal(torch.cat(segments(codes, 4)), torch.cat(codes))


def test_short_recordings_are_taken_whole_and_remainders_of_long_ones_are_dropped():
    assert [len(clip) for clip in excerpts(clips(10, 3, 8), 4, 1000).clips] == [4, 4, 3, 4, 4]


def test_excerpts_are_from_all_recordings_and_about_as_long_as_requested():
    chosen = excerpts(clips(100, 100, 100), 10, 100)
    assert sum(map(len, chosen.clips)) == 100
    assert set(chosen.recordings) == {0, 1, 2}


def test_excerpts_carry_the_index_of_their_recording():
    chosen = excerpts(clips(10, 3, 8, 25), 4, 20)
    assert [int(clip[0]) for clip in chosen.clips] == chosen.recordings
    assert len(chosen.clips) > 3
    assert whole_recordings(clips(4, 2)).recordings == [0, 1]


def test_words_have_the_label_and_speaker_of_their_file_names(tmp_path):
    for name in ("7_theo_12", "0_lucas_3"):
        write(tmp_path / f"{name}.wav", torch.linspace(-0.5, 0.5, 800), 8000)
    found = load_words(tmp_path, 16_000)
    assert [(word.label, word.speaker, len(word.waveform)) for word in found] == [
        (0, "lucas", 1600),
        (7, "theo", 1600),
    ]


def test_balanced_examples_are_spread_evenly_within_each_class():
    label = torch.arange(30) % 3
    chosen = LabelledAudio(torch.arange(30.0)[:, None], label).balanced(4)
    assert chosen.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert chosen.waveform[:4, 0].tolist() == [0.0, 9.0, 18.0, 27.0]
