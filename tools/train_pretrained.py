"""Train the small autoregressive models that ship with the library, and pack them.

    python -m tools.train_pretrained piano runs/data/piano_bach runs/data/piano_bach
    python -m tools.train_pretrained digits runs/data/digits runs/data/digits_jackson
    python -m tools.train_pretrained wavernn runs/data/digits runs/data/digits_jackson
    python -m tools.train_pretrained digits16 runs/data/digits runs/data/digits_jackson
    python -m tools.train_pretrained tunes runs/data/tunes runs/data/tunes

One folder for each of the two stages, with ``train``, ``valid`` and ``test``, and whole recordings. The first
stage has many short sequences, the second fewer long ones and a decaying learning rate. Digits are first
those of all speakers, then those of the one whose voice the model is to have. About an hour each on one CPU
thread; after an interruption the same command resumes. The weights of the best validation are evaluated on
``test`` and written to ``sashimi_lib/weights``; with ``--pack``, the best so far.

`tools.gpu` trains the same models on a GPU, from packed codes. After the last stage it goes on with warm
restarts (Loshchilov and Hutter 2017): the last stage again, each time twice as long, from the best weights so
far.
"""

import argparse
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.lib.corpus import CodesBySplit, excerpts, load_codes, segments
from benchmarks.lib.result import ROOT
from sashimi_lib.audio.quantizers import CoarseFine, MuLaw, Quantizer
from sashimi_lib.evaluation.likelihood import bigram_bits, clip_bits, mean_bits
from sashimi_lib.evaluation.linear_prediction import linear_prediction_bits
from sashimi_lib.models import SaShiMiConfig, WaveRNNConfig
from sashimi_lib.models.audio_lm import AudioLM, ModelConfig, new_model
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.pretrained import WEIGHTS, ModelCard, bundled_bits, save
from sashimi_lib.ssm.s4 import SSMConfig
from sashimi_lib.training.checkpoint import (
    best_of,
    checkpoint_exists,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from sashimi_lib.training.init import init_ordered_embeddings
from sashimi_lib.training.recipes import HOUR_SASHIMI
from sashimi_lib.training.train_state import History
from sashimi_lib.training.trainer import TrainingConfig, train

RUNS = ROOT / "runs" / "pretrained"
KEPT_STEPS = (30, 300, 3100)  # of the first stage: about 1, 10 and 100 million samples of `tunes`
BACKBONE = SaShiMiConfig(d_model=64, n_layers=2, ssm=SSMConfig(d_state=32))
BROAD = TrainingConfig(lr=0.008, ssm_lr=0.004, warmup=50, valid_every=400)
FINE = TrainingConfig(lr=0.004, ssm_lr=0.002, warmup=50, valid_every=200, decay="cosine")
MUON = replace(HOUR_SASHIMI.training, warmup=100, decay="constant", precision="bfloat16")


@dataclass(frozen=True)
class Task:
    """A model, its data, its training stages as (sequence length, configuration), and texts for its card."""

    config: ModelConfig
    quantizer: Quantizer
    sample_rate: int
    stages: tuple[tuple[int, TrainingConfig], ...]
    data: str
    credit: str
    dtype: torch.dtype = torch.float32  # of the file
    is_speech: bool = False  # single words, which are concatenated; music is cut into segments
    bundled_clips: str = ""  # of `sashimi_lib.pretrained.bundled_bits`: those that resemble the data

    def stage(self, number: int) -> tuple[int, TrainingConfig]:
        """Sequence length and training configuration of a stage; numbers beyond the last are warm restarts.

        >>> [TASKS["piano"].stage(number)[1].steps for number in range(5)]
        [3600, 1200, 2400, 4800, 9600]
        """
        if number < len(self.stages):
            return self.stages[number]
        length, config = self.stages[-1]
        restart = number - len(self.stages) + 1
        return length, replace(config, steps=config.steps * 2**restart, seed=config.seed + restart)

    def sequences(self, corpus: CodesBySplit, length: int) -> tuple[list[Tensor], list[Tensor]]:
        """Training and validation sequences of a stage."""
        if self.is_speech:
            return digit_sequences(corpus["train"], self.quantizer, length, seed=0), corpus["valid"]
        return segments(corpus["train"], length), segments(corpus["valid"], 32_768)[::4]


DIGITS = Task(
    BACKBONE,
    MuLaw(),
    sample_rate=8000,
    stages=(
        (2048, replace(BROAD, steps=2400, batch_size=8)),
        (4096, replace(FINE, steps=1200, batch_size=4)),
    ),
    data="Spoken digits, 195 takes of each by five speakers, then 39 by one of them, whose voice it is: "
    "3 takes of each for validation, 5 for test",
    credit="Free Spoken Digit Dataset, Zohar Jackson and contributors, speaker jackson, CC BY-SA 4.0",
    is_speech=True,
    bundled_clips="spoken_digits",
)
# Recurrent networks train on large batches, by truncated back-propagation through time.
RECURRENT = TrainingConfig(
    lr=0.004, warmup=50, batch_size=32, tbptt_length=512, clip_norm=1.0, valid_every=200, decay="constant"
)
TASKS = {
    "piano": Task(
        BACKBONE,
        MuLaw(),
        sample_rate=16_000,
        stages=(
            (1024, replace(BROAD, steps=3600, batch_size=16)),
            (8192, replace(FINE, steps=1200, batch_size=2)),
        ),
        data="Bach on a real piano: 16 minutes for training, 1 piece for validation, 2 for test",
        credit="Kimiko Ishizaka, Open Well-Tempered Clavier (2015) and Open Goldberg Variations (2012), "
        "CC0 1.0",
        bundled_clips="piano",
    ),
    "tunes": Task(
        SaShiMiConfig(d_model=64, n_layers=4, norm="layer", ssm=SSMConfig(d_state=32)),
        MuLaw(),
        sample_rate=8000,
        stages=(
            (8192, replace(MUON, steps=12_000, batch_size=4, ema=0.999)),
            (
                32_768,
                replace(
                    MUON,
                    steps=6_000,
                    batch_size=4,
                    tbptt_length=8192,
                    lr=0.004,
                    ssm_lr=0.002,
                    muon_lr=0.015,
                    decay="cosine",
                ),
            ),
        ),
        data="Fiddle tunes of Ryan's Mammoth Collection (1883), rendered on a vibraphone: every 20th for "
        "validation, every 20th for test",
        credit="Tunes in the public domain, transcribed by Ray Davies and others; rendered for this project "
        "with FluidR3_GM by Frank Wen (MIT)",
        bundled_clips="tunes",
    ),
    "digits": DIGITS,
    "digits16": replace(
        DIGITS,
        quantizer=CoarseFine(),
        dtype=torch.float16,
        stages=(
            (2048, replace(BROAD, steps=1600, batch_size=8)),
            (4096, replace(FINE, steps=800, batch_size=4)),
        ),
    ),
    "wavernn": replace(
        DIGITS,
        config=WaveRNNConfig(224),
        quantizer=CoarseFine(),
        dtype=torch.float16,
        stages=(
            (8192, replace(RECURRENT, steps=2400)),
            (8192, replace(RECURRENT, steps=1600, lr=0.002, decay="cosine")),
        ),
    ),
}


def digit_sequences(
    clips: list[Tensor], quantizer: Quantizer, length: int, seed: int, rounds: int = 8
) -> list[Tensor]:
    """Sequences of spoken digits in random order, with silences between them.

    Each begins with a silence and a whole digit, so that a model learns beginnings, endings and
    continuations.
    """
    chance, sequences = random.Random(seed), []
    silence = quantizer.encode(torch.zeros(1200))
    for _ in range(rounds):
        order, parts = chance.sample(clips, len(clips)), []
        for clip in order:
            parts += [silence[: chance.randint(400, 1200)], clip]
            if sum(map(len, parts)) >= length:
                sequences.append(torch.cat(parts)[:length])
                parts = []
    return sequences


def untrained_model(task: Task, seed: int = 0) -> Autoregressive:
    """A new model of a task."""
    torch.manual_seed(seed)
    model = new_model(task.config, task.quantizer)
    if isinstance(model, AudioLM):
        init_ordered_embeddings(model)
    return model


def checkpoint_path(name: str, stage: int, runs: Path = RUNS) -> Path:
    """The checkpoint of a stage."""
    return runs / f"{name}-{stage}.pt"


def kept_path(name: str, steps: int, runs: Path = RUNS) -> Path:
    """The weights after one of `KEPT_STEPS`."""
    return runs / f"{name}-0-{steps}.pt"


def train_stages(
    name: str,
    task: Task,
    corpora: Iterable[CodesBySplit],
    runs: Path = RUNS,
    device: str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
    **options: Any,
) -> Iterator[tuple[int, History]]:
    """Train one stage on each corpus, resuming from checkpoints. Yields number and history of each stage as
    it ends. ``options`` are passed to `train`."""
    model = untrained_model(task).to(device)

    def keep(step: int, loss: float) -> None:
        if stage == 0 and (steps := step + 1) in KEPT_STEPS:
            save_checkpoint(kept_path(name, steps, runs), {"model": model.state_dict(), "steps": steps})
        if on_step is not None:
            on_step(step, loss)

    for stage, corpus in enumerate(corpora):
        if checkpoint_exists(checkpoint_path(name, stage + 1, runs)):
            continue  # the next stage has begun, from the weights of this one
        length, config = task.stage(stage)
        data, valid = task.sequences(corpus, length)
        path = checkpoint_path(name, stage, runs)
        yield stage, train(model, data, config, path, valid=valid, on_step=keep, **options)


def best_weights(name: str, task: Task, runs: Path = RUNS) -> tuple[int, dict[str, Any]]:
    """The stage and checkpoint of least validation loss among the last stage and its restarts. ValueError if
    there is none."""
    found = []
    for stage in itertools.count(len(task.stages) - 1):
        path = checkpoint_path(name, stage, runs)
        if not checkpoint_exists(path):
            break
        if best_of(path).exists():
            found.append((stage, load_checkpoint(best_of(path))))
    if not found:
        raise ValueError(f"the last stage of {name} must have been validated once, got none in {runs}")
    return min(found, key=lambda entry: entry[1]["loss"])


def total_training(task: Task, stage: int, steps: int) -> tuple[int, int]:
    """Steps and samples of training: of all stages before ``stage``, and of ``steps`` steps of it."""
    stages = [(*task.stage(number), task.stage(number)[1].steps) for number in range(stage)]
    stages.append((*task.stage(stage), steps))
    samples = sum(n * config.samples_per_step(length) for length, config, n in stages)
    return sum(n for *_, n in stages), samples


def training_hours(name: str, stage: int, best: dict[str, Any], runs: Path = RUNS) -> float | None:
    """Hours of training: of all stages before ``stage``, and of it up to its best weights. None if a
    checkpoint is missing, or of a version that did not record its time."""
    checkpoints = [latest_checkpoint(checkpoint_path(name, number, runs)) for number in range(stage)]
    seconds = [
        math.nan if content is None else History.from_state_dict(content["history"]).seconds
        for content in checkpoints
    ]
    total = sum(seconds, best.get("seconds", math.nan))
    return None if math.isnan(total) else total / 3600


def evaluate(task: Task, model: Autoregressive, corpus: CodesBySplit) -> dict[str, Any]:
    """The figures of a model card, on ``test`` in excerpts of at most 8 seconds."""
    test = excerpts(corpus["test"], 8 * task.sample_rate, sum(map(len, corpus["test"])))
    estimate = mean_bits(clip_bits(model, test.clips, chunk_length=4096), *test)
    figures: dict[str, Any] = {
        "test_bits": estimate.mean,
        "test_interval": estimate.interval,
        "test_recordings": estimate.recordings,
    }
    if isinstance(task.quantizer, MuLaw):
        figures["bigram_bits"] = bigram_bits(corpus["train"], test.clips)
        figures["linear_prediction_bits"] = linear_prediction_bits(corpus["train"], test.clips)
    if task.bundled_clips:
        figures["bundled_clips"] = task.bundled_clips
        figures["bundled_bits"] = bundled_bits(model, task.sample_rate, task.bundled_clips)
    return figures


def pack(name: str, task: Task, folder: Path, hardware: str) -> None:
    """Evaluate the best weights, and write them."""
    corpus, model = load_codes(folder, task.sample_rate, task.quantizer), untrained_model(task)
    stage, best = best_weights(name, task)
    model.load_state_dict(best["model"])
    model.to(task.dtype).float()  # rounded as in the file
    steps, samples = total_training(task, stage, best["steps"])
    card = ModelCard(
        name,
        task.data,
        task.credit,
        steps=steps,
        samples=samples,
        hours=training_hours(name, stage, best),
        hardware=hardware,
        **evaluate(task, model, corpus),
    )
    print(card)
    save(WEIGHTS / f"{name}.safetensors", model, task.sample_rate, card, task.dtype)


def main() -> None:
    """Train one model and pack it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", choices=TASKS, help="model to train")
    parser.add_argument("folders", type=Path, nargs=2, help="recordings of the two stages")
    parser.add_argument("--pack", action="store_true", help="do not train: pack the best checkpoint so far")
    parser.add_argument("--hardware", default="one CPU core", help="for the card (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS[options.name]
    if not options.pack:
        corpora = (load_codes(folder, task.sample_rate, task.quantizer) for folder in options.folders)
        for _, history in train_stages(options.name, task, corpora, progress=sys.stderr.isatty()):
            print(history.valid)
    pack(options.name, task, options.folders[-1], options.hardware)


if __name__ == "__main__":
    main()
