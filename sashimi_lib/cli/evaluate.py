"""``sashimi evaluate``: what recordings cost a model, in bits per sample."""

import math
import sys
import warnings
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from sashimi_lib.cli.arguments import EvaluateCommand
from sashimi_lib.cli.device import device_of
from sashimi_lib.cli.recordings import judged_length, sequences_of
from sashimi_lib.data.clips import audio_paths, find_audio
from sashimi_lib.data.corpora import CORPORA, FOLDER, Codes
from sashimi_lib.data.split import FileLists, Split, relative_name, summarize
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.evaluation.likelihood import FEWEST, ConfidenceInterval, clip_bits, mean_bits
from sashimi_lib.models.autoregressive import DiscreteAudioModel
from sashimi_lib.pretrained import load


def run(command: EvaluateCommand) -> None:
    """Judge the model. Raises ValueError for what cannot be."""
    pretrained = load(command.model)
    model, rate = pretrained.model, pretrained.sample_rate
    if isinstance(model, DiffusionModel):
        raise ValueError(f"{command.model} is a diffusion model: it gives no likelihood to measure in bits")
    corpus, part = CORPORA[command.corpus], str(command.part)
    if part == "all":
        corpus, part = replace(corpus, split=everything), "test"
    elif corpus.archive is None:
        recorded = pretrained.card.recordings
        split = partial(as_now, command.model) if recorded is None else partial(as_recorded, recorded)
        corpus = replace(corpus, split=partial(split, part))
    seconds = judged_length(corpus, rate) / rate if command.seconds is None else command.seconds
    if not 1 <= seconds * rate < math.inf or command.batch_size < 1:
        raise ValueError(
            f"--seconds must be above 0 and --batch-size at least 1, got {command.seconds}, "
            f"{command.batch_size}"
        )
    length = round(seconds * rate)
    heard = replace(corpus, sample_rate=rate, quantizer=model.quantizer, length=length)
    codes = heard.codes(command.data, part, progress=sys.stderr.isatty())
    print(judged(model.to(device_of(command.device)), codes, rate, command.batch_size)[1])


def judged(model: DiscreteAudioModel, codes: Codes, rate: int, batch_size: int) -> tuple[float, str]:
    """Bits per sample; and these in words, with their interval where there are recordings enough for one."""
    pieces = sequences_of(codes)
    recordings = codes.recordings or [None] * len(pieces)  # unknown ones might all be one
    estimate = mean_bits(clip_bits(model, pieces, batch_size), pieces, recordings)
    seconds = f"{sum(map(len, pieces)) / rate:,.1f} s"
    return estimate.mean, f"{in_words(estimate)} ({seconds} in {len(pieces):,} pieces)"


def in_words(estimate: ConfidenceInterval) -> str:
    """Bits per sample, and their interval or why there is none.

    >>> in_words(ConfidenceInterval(5.25, (5.0, 5.5), 12))
    '5.250 bits per sample, 95 % confidence interval over 12 recordings 5.000 to 5.500'
    >>> in_words(ConfidenceInterval(5.25, None, 1))
    '5.250 bits per sample, no confidence interval for fewer than 5 recordings, here 1'
    """
    bits, number = f"{estimate.mean:.3f} bits per sample", estimate.recordings
    if estimate.interval is None:
        return f"{bits}, no confidence interval for fewer than {FEWEST} recordings, here {number}"
    low, high = estimate.interval
    return f"{bits}, 95 % confidence interval over {number:,} recordings {low:.3f} to {high:.3f}"


def as_now(model: str, part: str, root: Path) -> Split:
    """A folder as it would be split now, with a warning: part of it may be what the model has learnt from."""
    warnings.warn(
        f"{model} does not say which recordings it learnt from: {part} is what sashimi train would now take "
        "for it, by folders train, valid and test, or else by a hash of each file's path",
        stacklevel=2,
    )
    return FOLDER.split(root)


def as_recorded(recorded: FileLists, part: str, root: Path) -> Split:
    """One part of a folder as it was in training. Warns of recordings that are in no part of it. Raises
    ValueError, naming them, for recordings that are gone."""
    there = {relative_name(path, root): path for path in audio_paths(root)}
    lists = asdict(recorded)
    gone = [name for name in lists[part] if name not in there]
    if gone:
        raise ValueError(
            f"{root} has not all {len(lists[part]):,} recordings of {part}, as they were in training: "
            f"{summarize(gone)} missing. To judge by other recordings, which the model has not learnt from: "
            "--part all"
        )
    new = sorted(set(there).difference(*lists.values()))
    if new:
        warnings.warn(
            f"{root}: {len(new):,} recordings are in none of the lists of the training run, and so left out: "
            f"{summarize(new)}",
            stacklevel=2,
        )
    return {part: [there[name] for name in lists[part]]}


def everything(root: Path) -> Split:
    """All recordings below a folder, as its test."""
    return {"test": [file.path for file in find_audio(root)]}
