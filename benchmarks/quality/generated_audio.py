"""What do the shipped models generate, measured as a listener would: beside real recordings?

    python -m benchmarks.quality.generated_audio runs/data
    python -m benchmarks.quality.generated_audio runs/data --models piano --before piano=old.safetensors

Unselected clips of each model, at temperature 1 from seed 0. The folder holds the corpora ``tunes``,
``piano_bach`` and ``digits_jackson``, each with ``valid`` and ``test``, from which equally long excerpts are
measured too: as they are, and quantized as the model quantizes them, which sets a limit to every model with
that quantizer. Words of the digits are joined by silences, as in training. A model is named by its kind, or
given as KIND=PATH. Writes ``book/results/generated_audio.json``. About three minutes on one CPU thread.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.lib.corpus import Excerpts, excerpts, load_waveforms, load_words, whole_recordings
from benchmarks.lib.result import ErrorCollector, save_result
from sashimi_lib import pretrained
from sashimi_lib.audio import rms_db
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.evaluation.classifier import load_classifier
from sashimi_lib.evaluation.likelihood import mean_bits
from sashimi_lib.evaluation.melody import (
    diatonic_chance,
    diatonic_share,
    duration_counts,
    interval_counts,
    pooled_distance,
)
from sashimi_lib.evaluation.noise import harmonics_to_noise, noise_between_partials, quiet_flatness
from sashimi_lib.evaluation.onsets import onsets_per_second
from sashimi_lib.evaluation.pitch import in_tune_share, notes, pitch_track
from sashimi_lib.evaluation.words import known_share, word_probabilities, words
from sashimi_lib.models import SamplingConfig
from sashimi_lib.models.autoregressive import DiscreteAudioModel
from sashimi_lib.streaming import best_engine

Measures = Callable[[Tensor, int], dict[str, float]]  # of a waveform and its sample rate
WORDS_PER_EXCERPT = 10
TREBLE = 2_000.0  # Hz, above nearly all of a piano's power, and above partials that are too close to resolve
PAUSES = (0.05, 0.15)  # seconds, the range of silences before words
DIGITS = 5  # decimals of the values that are stored
UNITS = {
    "rms_db": "dBFS",
    "noise_db": "dBFS, noise between partials",
    "treble_noise_db": "dBFS, noise between partials above 2 kHz",
    "harmonics_to_noise_db": "dB",
    "in_tune": "share of frames with one clear pitch within 20 cents of equal temperament",
    "diatonic": "share of notes in the best major scale",
    "diatonic_chance": "the same for equally many random notes",
    "interval_distance": "Jensen-Shannon distance of the intervals in all clips from those of the validation "
    "recordings, and the counts of intervals from -12 to 12 semitones",
    "duration_distance": "the same of the times between notes, in half octaves from 1/16 to 4 s",
    "quiet_flatness_db": "dB, spectral flatness of the quietest quarter of frames",
    "confidence": "mean probability of the classifier's most probable digit",
    "known": "share of words with such a probability of at least 0.95",
}


def level_and_noise(waveform: Tensor, sample_rate: int) -> dict[str, float]:
    """Measures of every kind of audio."""
    return {
        "rms_db": max(rms_db(waveform), -120.0),
        "noise_db": noise_between_partials(waveform, sample_rate),
        "harmonics_to_noise_db": harmonics_to_noise(waveform, sample_rate),
    }


def tune_measures(waveform: Tensor, sample_rate: int) -> dict[str, float]:
    """Measures of a melody."""
    melody = notes(waveform, sample_rate)
    return level_and_noise(waveform, sample_rate) | {
        "in_tune": in_tune_share(pitch_track(waveform, sample_rate)),
        "notes_per_second": len(melody) * sample_rate / len(waveform),
        "diatonic": diatonic_share(melody),
        "diatonic_chance": diatonic_chance(max(1, len(melody))),
    }


def piano_measures(waveform: Tensor, sample_rate: int) -> dict[str, float]:
    """Measures of polyphonic music."""
    return level_and_noise(waveform, sample_rate) | {
        "treble_noise_db": noise_between_partials(waveform, sample_rate, TREBLE),
        "onsets_per_second": onsets_per_second(waveform, sample_rate),
        "quiet_flatness_db": quiet_flatness(waveform, sample_rate),
    }


def digit_measures(waveform: Tensor, sample_rate: int) -> dict[str, float]:
    """Measures of spoken digits."""
    probability = word_probabilities(words(waveform, sample_rate), load_classifier())
    return level_and_noise(waveform, sample_rate) | {
        "words_per_second": len(probability) * sample_rate / len(waveform),
        "confidence": float(probability.mean()) if len(probability) else 0.0,
        "known": known_share(probability),
    }


def note_counts(clips: Excerpts, sample_rate: int) -> dict[str, Tensor]:
    """Counts (recordings, bins) of the intervals and of the durations in melodies."""
    melodies = [notes(clip, sample_rate) for clip in clips.clips]
    recordings = torch.tensor(clips.recordings).unique(return_inverse=True)[1]
    by_clip = {
        "interval": torch.stack([interval_counts(melody) for melody in melodies]),
        "duration": torch.stack([duration_counts(melody) for melody in melodies]),
    }
    return {
        name: counts.new_zeros(int(recordings.max()) + 1, counts.shape[1]).index_add(0, recordings, counts)
        for name, counts in by_clip.items()
    }


def tune_distances(clips: Excerpts, folder: Path, sample_rate: int) -> dict[str, Any]:
    """Distances of the intervals and durations in melodies from those of the validation recordings."""
    real = note_counts(whole_recordings(load_waveforms(folder / "valid", sample_rate)), sample_rate)
    return {
        f"{name}_distance": pooled_distance(counts, real[name].sum(dim=0))._asdict()
        | {"counts": counts.sum(dim=0).tolist()}
        for name, counts in note_counts(clips, sample_rate).items()
    }


def no_distances(clips: Excerpts, folder: Path, sample_rate: int) -> dict[str, Any]:
    """Nothing: other clips are measured one by one."""
    return {}


def music_excerpts(folder: Path, sample_rate: int, length: int, count: int) -> Excerpts:
    """About ``count`` excerpts, evenly spread over the test recordings."""
    return excerpts(load_waveforms(folder / "test", sample_rate), length, count * length)


def word_excerpts(folder: Path, sample_rate: int, length: int, count: int) -> Excerpts:
    """All test recordings of words, ten in each excerpt, each after a silence. Each word is used once, so the
    number of excerpts follows."""
    recorded, generator = load_words(folder / "test", sample_rate), torch.Generator().manual_seed(0)
    shortest, longest = (round(seconds * sample_rate) for seconds in PAUSES)
    number = max(1, len(recorded) // WORDS_PER_EXCERPT)
    clips = []
    for first in range(number):
        pauses = torch.randint(shortest, longest, (len(recorded),), generator=generator).tolist()
        pairs = zip(pauses, recorded[first::number], strict=False)
        clips.append(torch.cat([x for pause, word in pairs for x in (torch.zeros(pause), word.waveform)]))
    return Excerpts(clips, list(range(number)))


@dataclass(frozen=True)
class Kind:
    """A kind of audio: its corpus, the number of draws, the measures of a clip, those of all clips together,
    and the real excerpts."""

    corpus: str
    draws: int
    measure: Measures
    distances: Callable[[Excerpts, Path, int], dict[str, Any]]
    excerpts: Callable[[Path, int, int, int], Excerpts]


KINDS = {
    "tunes": Kind("tunes", 40, tune_measures, tune_distances, music_excerpts),
    "piano": Kind("piano_bach", 20, piano_measures, no_distances, music_excerpts),
    "digits": Kind("digits_jackson", 20, digit_measures, no_distances, word_excerpts),
}


def generate(model: DiscreteAudioModel, length: int, count: int, temperature: float) -> Excerpts:
    """Unselected clips of a model, each its own recording."""
    codes = best_engine(model).generate(length, count, sampling=SamplingConfig(temperature), seed=0)
    return Excerpts(list(model.quantizer.decode(codes)), list(range(count)))


def summarize(clips: Excerpts, measure: Measures, sample_rate: int) -> dict[str, Any]:
    """The mean of every measure, its 95 % confidence interval over recordings (None for fewer than five), and
    the value of each clip."""
    by_clip = [measure(clip, sample_rate) for clip in clips.clips]
    summary = {}
    for name in by_clip[0]:
        values = [values[name] for values in by_clip]
        estimate = mean_bits(torch.tensor(values, dtype=torch.float64), clips.clips, clips.recordings)
        summary[name] = estimate._asdict() | {"values": [round(value, DIGITS) for value in values]}
    return summary


def quantized(clips: Excerpts, model: DiscreteAudioModel) -> Excerpts:
    """The same clips, encoded and decoded by the quantizer of a model."""
    decode = [model.quantizer.decode(model.quantizer.encode(clip)) for clip in clips.clips]
    return clips._replace(clips=decode)


def load_model(name: str) -> tuple[DiscreteAudioModel, int]:
    """A model of codes and its sample rate, by its name or path."""
    loaded = pretrained.load(name)
    if isinstance(loaded.model, DiffusionModel):
        raise ValueError(f"a model must be one of codes, got {name}, a DiffusionModel")
    return loaded.model, loaded.sample_rate


def evaluate(kind: Kind, name: str, before: str | None, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of the clips of a model, of older weights if there are any, and of real excerpts."""
    (model, rate), folder = load_model(name), options.data / kind.corpus
    length, count = round(options.seconds * rate), options.draws or kind.draws
    real = kind.excerpts(folder, rate, length, count)
    clips = {
        "generated": generate(model, length, count, options.temperature),
        "real": real,
        "real, quantized": quantized(real, model),
    }
    if before:
        clips["generated before"] = generate(load_model(before)[0], length, count, options.temperature)
    return {"sample_rate": rate} | {
        key: summarize(each, kind.measure, rate) | kind.distances(each, folder, rate)
        for key, each in clips.items()
    }


def by_kind(arguments: list[str]) -> dict[str, str]:
    """Names or paths of models by kind, from arguments KIND or KIND=PATH.

    >>> by_kind(["piano", "digits=runs/digits.safetensors"])
    {'piano': 'piano', 'digits': 'runs/digits.safetensors'}
    """
    pairs = [argument.partition("=") for argument in arguments]
    unknown = [kind for kind, _, _ in pairs if kind not in KINDS]
    if unknown:
        raise ValueError(f"a model must be one of {', '.join(KINDS)}, or KIND=PATH, got {unknown}")
    return {kind: path or kind for kind, _, path in pairs}


def main() -> None:
    """Generate and measure, writing the result after each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the corpora")
    parser.add_argument("--models", nargs="+", default=list(KINDS), help="KIND or KIND=PATH")
    parser.add_argument("--before", nargs="+", default=[], help="older weights, KIND=PATH")
    parser.add_argument("--draws", type=int, help="clips of each model (default: 40 tunes, 20 of the others)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each clip")
    parser.add_argument("--temperature", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models, before = by_kind(options.models), by_kind(options.before)
    figures: dict[str, Any] = {}
    with ErrorCollector() as errors:
        for name, model in models.items():
            with errors.collect(name):
                figures[name] = evaluate(KINDS[name], model, before.get(name), options)
                write_result(options, figures)


def write_result(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Write the result."""
    save_result(
        "generated_audio",
        question="What the shipped models generate, unselected, beside real recordings",
        config={
            "seconds": options.seconds,
            "temperature": options.temperature,
            "draws": {name: options.draws or KINDS[name].draws for name in figures},
            "words_per_excerpt": WORDS_PER_EXCERPT,
            "pauses": PAUSES,
        },
        figures=figures,
        units=UNITS,
        repeats=1,
        seed=0,
        data=f"test recordings of {', '.join(KINDS[name].corpus for name in figures)}: as they are, and "
        "encoded and decoded by the model's quantizer; intervals are over draws, and over recordings",
    )


if __name__ == "__main__":
    main()
