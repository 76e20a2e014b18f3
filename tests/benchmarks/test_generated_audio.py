"""Generated clips and real excerpts are measured alike; real words are each used once."""

import json

import pytest
import torch

from benchmarks.quality import generated_audio
from sashimi_lib.audio import write
from sashimi_lib.data.bundled import spoken_digits
from sashimi_lib.pretrained import ModelCard, save
from sashimi_lib.training.recipes import TINY_WAVENET
from tests.evaluation.melodies import RATE, random_melody, render, white_noise


def write_words(folder, copies=1):
    folder.mkdir(parents=True)
    for digit, clip in spoken_digits().items():
        for copy in range(copies):
            write(folder / f"{digit}_lucas_{copy}.wav", clip.waveform, clip.sample_rate)


def write_melodies(folder, count):
    folder.mkdir(parents=True)
    for seed in range(count):
        pitches, onsets = random_melody(8, seed)
        write(folder / f"{seed}.wav", render(pitches, onsets, onsets[-1] + 0.5), RATE)


@pytest.fixture
def data(tmp_path):
    for corpus in ("tunes", "piano_bach"):
        write_melodies(tmp_path / "data" / corpus / "valid", 2)
        write_melodies(tmp_path / "data" / corpus / "test", 6)
    write_words(tmp_path / "data" / "digits_jackson" / "test")
    return tmp_path / "data"


@pytest.fixture
def command(data, tmp_path, monkeypatch):
    path = tmp_path / "tiny.safetensors"
    save(path, TINY_WAVENET.build(seed=0), RATE, ModelCard("tiny"))
    models = [f"{kind}={path}" for kind in ("tunes", "piano", "digits")]
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    size = ["--draws", "5", "--seconds", "1"]
    words = ["generated_audio.py", str(data), *size, "--before", models[0], "--models", *models]
    monkeypatch.setattr("sys.argv", words)
    return words


def test_every_excerpt_of_words_has_ten_that_are_in_no_other(tmp_path):
    write_words(tmp_path / "test", copies=3)
    found = generated_audio.word_excerpts(tmp_path, RATE, 8_000, 20)
    assert found.recordings == [0, 1, 2]
    spoken = sum(len(clip.waveform) for clip in spoken_digits().values())
    pauses = [len(clip) - spoken for clip in found.clips]
    assert all(10 * 400 <= pause <= 10 * 1_200 for pause in pauses)
    assert len(set(pauses)) == 3


def test_digits_are_words_and_noise_is_not(data):
    spoken = generated_audio.word_excerpts(data / "digits_jackson", RATE, 8_000, 1).clips[0]
    real = generated_audio.digit_measures(spoken, RATE)
    noise = generated_audio.digit_measures(white_noise(-20, 3), RATE)
    assert 1 < real["words_per_second"] < 3
    assert real["confidence"] > 0.8 > noise["confidence"]
    assert real["known"] > 0.5 > noise["known"] == 0


def test_a_melody_is_in_tune_and_in_a_key_and_noise_is_not():
    pitches, onsets = random_melody(30)
    real = generated_audio.tune_measures(render(pitches, onsets, onsets[-1] + 1), RATE)
    noise = generated_audio.tune_measures(white_noise(-20, 5), RATE)
    assert real["in_tune"] > 0.9
    assert real["diatonic"] == 1 > real["diatonic_chance"]
    assert real["harmonics_to_noise_db"] > 20 > 0 > noise["harmonics_to_noise_db"]
    assert noise["noise_db"] == pytest.approx(-20, abs=0.5)


def test_melodies_of_one_kind_are_closer_than_those_of_another(data):
    same, other = [], []
    for seed in range(5):
        pitches, onsets = random_melody(20, seed + 10)
        same.append(render(pitches, onsets, onsets[-1] + 0.5))
        other.append(render([60 + 7 * (k % 2) for k in range(8)], [0.8 * k + 0.1 for k in range(8)], 7))
    near, far = (
        generated_audio.tune_distances(generated_audio.whole_recordings(clips), data / "tunes", RATE)
        for clips in (same, other)
    )
    assert 80 < sum(near["interval_distance"]["counts"]) <= 5 * 19
    for name in ("interval_distance", "duration_distance"):
        assert near[name]["mean"] < 0.5 < far[name]["mean"]


def test_the_counts_of_one_recording_are_added():
    melodies = [render([60, 62, 62], [0.1, 0.4, 0.7], 1.5)] * 3
    counts = generated_audio.note_counts(generated_audio.Excerpts(melodies, [0, 0, 4]), RATE)
    assert counts["interval"][:, [12, 14]].tolist() == [[2, 2], [1, 1]]


def test_means_and_intervals_are_over_recordings():
    clips = generated_audio.Excerpts([torch.zeros(10)] * 6, [0, 0, 1, 2, 3, 4])
    values = iter([1.0, 3.0, 2.0, 2.0, 2.0, 2.0])
    found = generated_audio.summarize(clips, lambda waveform, rate: {"level": next(values)}, RATE)
    assert found == {
        "level": {"mean": 2.0, "interval": (2.0, 2.0), "recordings": 5, "values": [1, 3, 2, 2, 2, 2]}
    }


def test_a_model_of_no_kind_is_refused():
    with pytest.raises(ValueError, match=r"one of tunes, piano, digits, or KIND=PATH, got \['flute'\]"):
        generated_audio.by_kind(["piano", "flute"])


@pytest.mark.slow
def test_every_measure_is_of_generated_and_of_real_audio(command, tmp_path):
    generated_audio.main()
    figures = json.loads((tmp_path / "generated_audio.json").read_text())["figures"]
    assert figures.keys() == {"tunes", "piano", "digits"}
    for kind, sources in figures.items():
        assert sources.pop("sample_rate") == RATE
        assert sources.keys() >= {"generated", "real", "real, quantized"}
        assert ("generated before" in sources) == (kind == "tunes")
        names = {tuple(measures) for measures in sources.values()}
        assert len(names) == 1
        low, high = sources["generated"]["noise_db"]["interval"]
        assert low <= sources["generated"]["noise_db"]["mean"] <= high
        assert len(sources["generated"]["noise_db"]["values"]) == 5
    assert figures["tunes"]["generated"] == figures["tunes"]["generated before"]
    assert figures["tunes"]["real"]["in_tune"]["mean"] > 0.9
    assert (
        figures["tunes"]["real"]["noise_db"]["mean"] < figures["tunes"]["real, quantized"]["noise_db"]["mean"]
    )
    assert figures["digits"]["real"]["known"]["mean"] > 0.5


@pytest.mark.slow
def test_a_model_that_fails_does_not_stop_the_others(command, tmp_path):
    command[command.index("--models") + 1] = "tunes=nowhere.safetensors"
    with pytest.raises(ExceptionGroup, match="failed: tunes"):
        generated_audio.main()
    figures = json.loads((tmp_path / "generated_audio.json").read_text())["figures"]
    assert figures.keys() == {"piano", "digits"}
