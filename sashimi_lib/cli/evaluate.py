"""``sashimi evaluate``: metrics of a trained model on held-out recordings."""

import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from sashimi_lib.cli.arguments import EvaluateCommand
from sashimi_lib.cli.device import device_of
from sashimi_lib.cli.recordings import evaluation_length, sequences_of
from sashimi_lib.data.clips import audio_paths, find_audio
from sashimi_lib.data.corpora import CORPORA, FOLDER, Corpus
from sashimi_lib.data.split import FileLists, Split, relative_name, summarize
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.evaluation.likelihood import MIN_RECORDINGS, ConfidenceInterval
from sashimi_lib.evaluation.metrics import METRICS, HeldOut, Model, Report
from sashimi_lib.pretrained import Pretrained, load


def run(command: EvaluateCommand) -> int:
    """Evaluate the model, and print each metric. Raises ValueError for invalid options, and for metrics that
    the model does not have."""
    names = metrics_of(command.metrics)
    pretrained = load(command.model)
    data = held_out_data(command, pretrained)
    model = pretrained.model.to(device_of(command.device))
    for name in names:
        print(f"{name}: {format_report(METRICS[name](model, data))}", flush=True)
    return 0


def metrics_of(names: str) -> list[str]:
    """The metrics of a comma-separated list. Raises ValueError for unknown ones.

    >>> metrics_of("bits,spectrum_distance")
    ['bits', 'spectrum_distance']
    """
    unknown = [name for name in names.split(",") if name not in METRICS]
    if unknown:
        raise ValueError(f"--metrics must be among {', '.join(METRICS)}, got {', '.join(map(repr, unknown))}")
    return names.split(",")


def held_out_data(command: EvaluateCommand, pretrained: Pretrained) -> HeldOut:
    """The recordings, as the model takes them."""
    corpus, part = corpus_of(command, pretrained)
    rate = pretrained.sample_rate
    seconds = evaluation_length(corpus, rate) / rate if command.seconds is None else command.seconds
    _check(command, seconds * rate)
    corpus = replace(corpus, sample_rate=rate, length=round(seconds * rate))
    sequences, recordings = read_sequences(command.data, corpus, part, pretrained.model)
    return HeldOut(sequences, rate, recordings, command.batch_size, command.count, command.seed)


def _check(command: EvaluateCommand, samples: float) -> None:
    if not 1 <= samples < math.inf:
        raise ValueError(f"--seconds must be finite and at least one sample, got {command.seconds}")
    for name, value in (("batch-size", command.batch_size), ("count", command.count)):
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")


def corpus_of(command: EvaluateCommand, pretrained: Pretrained) -> tuple[Corpus, str]:
    """The corpus, split as in training, and which part of it to evaluate on."""
    corpus, part = CORPORA[command.corpus], str(command.part)
    if part == "all":
        return replace(corpus, split=single_split), "test"
    if corpus.archive is not None:
        return corpus, part
    recorded = pretrained.card.recordings
    split = partial(current_split, command.model) if recorded is None else partial(recorded_split, recorded)
    return replace(corpus, split=partial(split, part)), part


def read_sequences(
    folder: Path, corpus: Corpus, part: str, model: Model
) -> tuple[list[Tensor], Sequence[Path] | None]:
    """Codes, or waveforms for a diffusion model; and the recording that each is a piece of."""
    progress = sys.stderr.isatty()
    if isinstance(model, DiffusionModel):
        pieces = list(corpus.segments(corpus.files(folder, part), progress))
        return [waveform for waveform, _ in pieces], [path for _, path in pieces]
    codes = replace(corpus, quantizer=model.quantizer).codes(folder, part, progress)
    return sequences_of(codes), codes.recordings


def format_report(report: Report) -> str:
    """A metric's value, and how much sound it rests on.

    >>> import torch
    >>> format_report(Report(3.21, "dB", HeldOut([torch.zeros(80), torch.zeros(40)], sample_rate=100)))
    '3.210 dB (1.2 s in 2 sequences)'
    """
    words = (
        format_estimate(report.value, report.unit)
        if isinstance(report.value, ConfidenceInterval)
        else f"{report.value:.3f} {report.unit}"
    )
    return f"{words} ({report.data.seconds:,.1f} s in {len(report.data.sequences):,} sequences)"


def format_estimate(estimate: ConfidenceInterval, unit: str = "bits per sample") -> str:
    """A mean, and its interval or why there is none.

    >>> format_estimate(ConfidenceInterval(5.25, (5.0, 5.5), 12))
    '5.250 bits per sample, 95 % confidence interval over 12 recordings 5.000 to 5.500'
    >>> format_estimate(ConfidenceInterval(5.25, None, 1))
    '5.250 bits per sample, no confidence interval for fewer than 5 recordings, here 1'
    """
    value, number = f"{estimate.mean:.3f} {unit}", estimate.recordings
    if estimate.interval is None:
        return f"{value}, no confidence interval for fewer than {MIN_RECORDINGS} recordings, here {number}"
    low, high = estimate.interval
    return f"{value}, 95 % confidence interval over {number:,} recordings {low:.3f} to {high:.3f}"


def current_split(model: str, part: str, root: Path) -> Split:
    """A folder as it would be split now, with a warning: part of it may have been trained on."""
    warnings.warn(
        f"{model} does not list its training recordings: {part} is what sashimi train would now use for it, "
        "by folders train, valid and test, or else by a hash of each file's path",
        stacklevel=2,
    )
    return FOLDER.split(root)


def recorded_split(recorded: FileLists, part: str, root: Path) -> Split:
    """One part of a folder as it was in training. Warns of recordings that are in no part of it. Raises
    ValueError, naming them, for recordings that are gone."""
    there = {relative_name(path, root): path for path in audio_paths(root)}
    lists = asdict(recorded)
    gone = [name for name in lists[part] if name not in there]
    if gone:
        raise ValueError(
            f"{root} lacks some of the {len(lists[part]):,} recordings of {part}: {summarize(gone)} missing. "
            "To evaluate on other recordings, which the model was not trained on: --part all"
        )
    new = sorted(set(there).difference(*lists.values()))
    if new:
        warnings.warn(
            f"{root}: left out {len(new):,} recordings that the training run did not have: {summarize(new)}",
            stacklevel=2,
        )
    return {part: [there[name] for name in lists[part]]}


def single_split(root: Path) -> Split:
    """All recordings below a folder, as its test."""
    return {"test": [file.path for file in find_audio(root)]}
