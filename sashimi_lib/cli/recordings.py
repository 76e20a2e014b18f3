"""Recordings as a run of ``sashimi train`` takes them: what it learns from, is held back by, is judged on."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from sashimi_lib.data.clips import AudioFile
from sashimi_lib.data.corpora import Codes, Corpus
from sashimi_lib.data.corpora.layouts import PARTS
from sashimi_lib.training.batches import Data, sequence_of
from sashimi_lib.training.recipes import DiffusionRecipe, Recipe

HIGHEST = 16_000  # Hz: no model of one's own recordings is asked for more, unless it is said
SECONDS = 4.0  # of a piece that is judged


def usual_rate(corpus: Corpus, folder: Path) -> int:
    """The sample rate of most of the sound in a folder, but at most `HIGHEST`.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> from sashimi_lib.data.corpora import FOLDER
    >>> usual_rate(FOLDER, AUDIO)
    16000

    Raises as `Corpus.files` does.
    """
    files: list[AudioFile] = [file for part in PARTS for file in corpus.files(folder, part)]
    seconds: Counter[int] = Counter()
    for file in files:
        seconds[file.sample_rate] += file.frames // file.sample_rate + 1
    return min(HIGHEST, seconds.most_common(1)[0][0])


def judged_length(corpus: Corpus, rate: int) -> int:
    """Samples of a piece that is judged: as the corpus has them, at its own rate, or `SECONDS`."""
    if corpus.length is None:
        return round(SECONDS * rate)
    return round(corpus.length * rate / corpus.sample_rate)


def codes_of(corpus: Corpus, folder: Path, recipe: Recipe, progress: bool) -> dict[str, Codes]:
    """Codes of each part: sequences of the recipe's length to learn from, longer ones to be judged on."""
    heard = replace(corpus, sample_rate=recipe.sample_rate, quantizer=recipe.quantizer)
    judged = judged_length(corpus, recipe.sample_rate)
    lengths = {"train": recipe.length, "valid": judged, "test": judged}
    return {
        part: replace(heard, length=length).codes(folder, part, progress) for part, length in lengths.items()
    }


def waveforms_of(corpus: Corpus, folder: Path, recipe: DiffusionRecipe, progress: bool) -> dict[str, Data]:
    """Waveforms of each part, for a model that hears sounds as wholes, with their classes where it is told
    classes and the corpus has some. An end that is left over from a recording is no whole, and left out."""
    heard = replace(corpus, sample_rate=recipe.sample_rate, length=recipe.length)
    told = corpus.label is not None and recipe.config.backbone.n_classes > 0
    read = heard.labelled if told else heard.waveforms
    return {
        part: [x for x in read(folder, part, progress) if len(sequence_of(x)) >= recipe.length // 4]
        for part in PARTS
    }


def some(data: Data, samples: int) -> Data:
    """Sequences from all over the data, at least one, of about so many samples together.

    >>> import torch
    >>> some(torch.arange(6)[:, None], samples=2)
    [tensor([0]), tensor([3])]
    """
    every = samples_of(data)
    if samples >= every:
        return data
    count = max(1, round(len(data) * samples / every))
    return [data[number * len(data) // count] for number in range(count)]


def sequences_of(data: Data) -> list[Tensor]:
    """All sequences."""
    return [sequence_of(data[number]) for number in range(len(data))]


def samples_of(data: Data) -> int:
    """How many samples there are in all sequences."""
    return sum(len(sequence_of(data[number])) for number in range(len(data)))
