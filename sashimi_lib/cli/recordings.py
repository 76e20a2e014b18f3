"""Recordings as a run takes them: sequences of each part, for training, validation and the test."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from sashimi_lib.audio import check_sample_rate
from sashimi_lib.data.clips import AudioFile
from sashimi_lib.data.corpora import Codes, Corpus
from sashimi_lib.data.sequences import Example, SequenceDataset, sequence_of
from sashimi_lib.data.split import FileLists, summarize
from sashimi_lib.training.recipes import DiffusionRecipe, Recipe

MAX_DEFAULT_RATE = 16_000  # Hz, unless --sample-rate asks for more
SECONDS = 4.0  # of a sequence of the test
Files = Mapping[str, Sequence[AudioFile]]  # of "train", "valid" and "test"


def dominant_sample_rate(parts: Files) -> int:
    """The sample rate of most of the sound in some files, but at most `MAX_DEFAULT_RATE`.

    >>> from sashimi_lib.data.bundled import AUDIO
    >>> from sashimi_lib.data.corpora import FOLDER
    >>> dominant_sample_rate(FOLDER.parts(AUDIO))
    16000
    """
    seconds: Counter[int] = Counter()
    for files in parts.values():
        for file in files:
            seconds[file.sample_rate] += file.frames // file.sample_rate + 1
    return min(MAX_DEFAULT_RATE, seconds.most_common(1)[0][0])


def evaluation_length(corpus: Corpus, rate: int) -> int:
    """Samples of a sequence of the test: as the corpus has them, at its own rate, or `SECONDS`."""
    if corpus.length is None:
        return round(SECONDS * rate)
    return round(corpus.length * rate / corpus.sample_rate)


def codes_of(corpus: Corpus, parts: Files, recipe: Recipe, progress: bool) -> dict[str, Codes]:
    """Codes of each part: sequences of the recipe's length for training, longer ones to evaluate on.

    Raises ValueError for an impossible rate, and as `Corpus.segments` does.
    """
    check_sample_rate(recipe.sample_rate, "--sample-rate")
    read = replace(corpus, sample_rate=recipe.sample_rate, quantizer=recipe.quantizer)
    judged = evaluation_length(corpus, recipe.sample_rate)
    return {
        part: replace(read, length=recipe.length if part == "train" else judged).codes_of(files, progress)
        for part, files in parts.items()
    }


def waveforms_of(
    corpus: Corpus, parts: Files, recipe: DiffusionRecipe, progress: bool
) -> dict[str, SequenceDataset]:
    """Waveforms of each part, for a diffusion model, with labels where both the model and the corpus have
    classes.

    The end of a recording is left out where it is shorter than a quarter of a sequence. Warns of recordings
    that are no longer than that. Raises ValueError for a part of which nothing is left, so that no run trains
    to its end and then has no test; for an impossible rate, and as `Corpus.segments` does.
    """
    check_sample_rate(recipe.sample_rate, "--sample-rate")
    read = replace(corpus, sample_rate=recipe.sample_rate, length=recipe.length)
    least = recipe.length // 4
    label = corpus.label if recipe.config.backbone.n_classes > 0 else None
    data: dict[str, SequenceDataset] = {}
    for part, files in parts.items():
        items: list[Example] = []
        dropped = dict.fromkeys(str(file.path) for file in files)
        for piece, path in read.segments(files, progress):
            if len(piece) >= least:
                items.append(piece if label is None else (piece, label(path)))
                dropped.pop(str(path), None)
        if not items:
            raise ValueError(
                f"--length {recipe.length} needs recordings of at least {least} samples, {part} has none: "
                f"{summarize(list(dropped))}"
            )
        if dropped:
            warnings.warn(
                f"left out {len(dropped):,} recordings of {part}, shorter than {least} samples: "
                f"{summarize(list(dropped))}",
                stacklevel=2,
            )
        data[part] = items
    return data


def file_lists(corpus: Corpus, parts: Files, folder: Path) -> FileLists | None:
    """The names of the recordings of each part, where they are your own; that of a corpus is published."""
    if corpus.archive is not None:
        return None
    paths = {part: [file.path for file in files] for part, files in parts.items()}
    return FileLists.from_paths(paths, folder)


def subsample(data: SequenceDataset, samples: int) -> SequenceDataset:
    """Sequences spread evenly over the data, at least one, of about so many samples together.

    >>> import torch
    >>> subsample(torch.arange(6)[:, None], samples=2)
    [tensor([0]), tensor([3])]
    """
    every = samples_of(data)
    if samples >= every:
        return data
    count = max(1, round(len(data) * samples / every))
    return [data[number * len(data) // count] for number in range(count)]


def sequences_of(data: SequenceDataset) -> list[Tensor]:
    """All sequences."""
    return [sequence_of(data[number]) for number in range(len(data))]


def samples_of(data: SequenceDataset) -> int:
    """How many samples there are in all sequences."""
    return sum(len(sequence_of(data[number])) for number in range(len(data)))
