"""Train the small models that ship with the library, and pack them.

    python tools/train_pretrained.py piano runs/data/piano_bach runs/data/piano_bach
    python tools/train_pretrained.py digits runs/data/digits runs/data/digits_jackson
    python tools/train_pretrained.py wavernn runs/data/digits runs/data/digits_jackson
    python tools/train_pretrained.py digits16 runs/data/digits runs/data/digits_jackson
    python tools/train_pretrained.py tunes runs/data/tunes runs/data/tunes

One folder for each of the two stages, with ``train``, ``valid`` and ``test``, whole recordings in each: many
short sequences first, then fewer long ones at a falling rate. The digits are heard from every speaker first,
and then from the one the model is to sound like. About an hour each on one CPU thread; stopped, the same
command goes on. The weights of the best validation are then judged on ``test`` and written to
``sashimi_lib/weights``; with ``--pack``, the best so far.

`tools/gpu.py` trains the same on a GPU, from packed codes, and goes on after the last stage for as long as it
may: with the last stage again, each time twice as long, from the best weights so far and at the full rate
(warm restarts, Loshchilov and Hutter 2017).
"""

import argparse
import itertools
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "pretrained"
sys.path += [str(ROOT), str(ROOT / "benchmarks")]

from corpus import Corpus, excerpts, load, pieces

from sashimi_lib.audio.quantizers import CoarseFine, MuLaw, Quantizer
from sashimi_lib.evaluation.likelihood import bigram_bits
from sashimi_lib.models import SaShiMiConfig, WaveRNNConfig
from sashimi_lib.models.audio_lm import AudioLM, Autoregressive, ModelConfig, new_model
from sashimi_lib.pretrained import WEIGHTS, ModelCard, bundled_bits, save
from sashimi_lib.ssm.s4 import SSMConfig
from sashimi_lib.training.checkpoint import best_of, checkpoint_exists, load_checkpoint
from sashimi_lib.training.init import init_ordered_embeddings
from sashimi_lib.training.train_state import History
from sashimi_lib.training.trainer import TrainingConfig, train
from sashimi_lib.training.validation import validation_loss

BACKBONE = SaShiMiConfig(d_model=64, n_layers=2, ssm=SSMConfig(d_state=32))
BROAD = TrainingConfig(lr=0.008, ssm_lr=0.004, warmup=50, valid_every=400)
FINE = TrainingConfig(lr=0.004, ssm_lr=0.002, warmup=50, valid_every=200, decay="cosine")


@dataclass(frozen=True)
class Task:
    """A model, what it learns, in two stages of sequences of so many samples, and what its card says of
    that."""

    config: ModelConfig
    quantizer: Quantizer
    sample_rate: int
    stages: tuple[tuple[int, TrainingConfig], ...]
    data: str
    credit: str
    dtype: torch.dtype = torch.float32  # of the file
    spoken: bool = False  # words, to be strung together, and not music, to be cut

    def stage(self, number: int) -> tuple[int, TrainingConfig]:
        """The length of the sequences of a stage, and how it trains; after the last one, of warm restarts.

        >>> [TASKS["piano"].stage(number)[1].steps for number in range(5)]
        [3600, 1200, 2400, 4800, 9600]
        """
        if number < len(self.stages):
            return self.stages[number]
        length, config = self.stages[-1]
        again = number - len(self.stages) + 1
        return length, replace(config, steps=config.steps * 2**again, seed=config.seed + again)

    def sequences(self, corpus: Corpus, length: int) -> tuple[list[Tensor], list[Tensor]]:
        """What a stage learns from, and what it is validated on."""
        if self.spoken:
            return streams(corpus["train"], self.quantizer, length, seed=0), corpus["valid"]
        return pieces(corpus["train"], length), pieces(corpus["valid"], 32_768)[::4]


DIGITS = Task(
    BACKBONE,
    MuLaw(),
    sample_rate=8000,
    stages=(
        (2048, replace(BROAD, steps=2400, batch_size=8)),
        (4096, replace(FINE, steps=1200, batch_size=4)),
    ),
    data="Spoken digits, 195 takes of each by five speakers, then 39 by one of them, whose voice it is: "
    "3 takes of each to choose by, 5 to be judged by",
    credit="Free Spoken Digit Dataset, Zohar Jackson and contributors, speaker jackson, CC BY-SA 4.0",
    spoken=True,
)
# A recurrent network learns from many sequences side by side, a piece of each at a time, its state carried
# on.
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
        data="Bach on a real piano: 16 minutes to learn from, 1 piece to choose by, 2 to be judged by",
        credit="Kimiko Ishizaka, Open Well-Tempered Clavier (2015) and Open Goldberg Variations (2012), "
        "CC0 1.0",
    ),
    "tunes": Task(
        BACKBONE,
        MuLaw(),
        sample_rate=8000,
        stages=(
            (1024, replace(BROAD, steps=2400, batch_size=16)),
            (8192, replace(FINE, steps=1500, batch_size=2)),
        ),
        data="Fiddle tunes of Ryan's Mammoth Collection (1883), rendered on a vibraphone: every 20th to "
        "choose by, every 20th to be judged by",
        credit="Tunes in the public domain, transcribed by Ray Davies and others; rendered for this project "
        "with FluidR3_GM by Frank Wen (MIT)",
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


def streams(
    clips: list[Tensor], quantizer: Quantizer, length: int, seed: int, rounds: int = 8
) -> list[Tensor]:
    """Spoken digits one after the other in random order, with silences between them, cut into sequences.

    Each begins with a silence and a whole digit, so that a model learns to begin, to end, and to go on.
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


def untrained(task: Task, seed: int = 0) -> Autoregressive:
    """The model before training."""
    torch.manual_seed(seed)
    model = new_model(task.config, task.quantizer)
    if isinstance(model, AudioLM):
        init_ordered_embeddings(model)
    return model


def checkpoint(name: str, stage: int, runs: Path = RUNS) -> Path:
    """Where a stage is written as it goes."""
    return runs / f"{name}-{stage}.pt"


def learn(
    name: str,
    task: Task,
    corpora: Iterable[Corpus],
    runs: Path = RUNS,
    device: str = "cpu",
    **how: Any,
) -> Iterator[tuple[int, History]]:
    """Train a stage on each corpus, from where the checkpoints stand: the number and the history of each
    stage, as it ends. ``how`` goes to `train`."""
    model = untrained(task).to(device)
    for stage, corpus in enumerate(corpora):
        if checkpoint_exists(checkpoint(name, stage + 1, runs)):
            continue  # it began with the weights of this one
        length, config = task.stage(stage)
        data, valid = task.sequences(corpus, length)
        yield stage, train(model, data, config, checkpoint(name, stage, runs), valid=valid, **how)


def best_weights(name: str, task: Task, runs: Path = RUNS) -> tuple[int, dict[str, Any]]:
    """The weights of least validation loss, of the last stage and all restarts, and which stage they are of.
    ValueError where there are none."""
    found = []
    for stage in itertools.count(len(task.stages) - 1):
        path = checkpoint(name, stage, runs)
        if not checkpoint_exists(path):
            break
        if best_of(path).exists():
            found.append((stage, load_checkpoint(best_of(path))))
    if not found:
        raise ValueError(f"the last stage of {name} must have been validated once, got none in {runs}")
    return min(found, key=lambda entry: entry[1]["loss"])


def heard(task: Task, stage: int, steps: int) -> tuple[int, int]:
    """Steps and samples of training, all stages before and so many steps of this one."""
    every = [(*task.stage(number), task.stage(number)[1].steps) for number in range(stage)]
    every.append((*task.stage(stage), steps))
    return sum(n for *_, n in every), sum(n * config.samples_per_step(length) for length, config, n in every)


def pack(name: str, task: Task, folder: Path) -> None:
    """Judge the best weights on ``test``, excerpts of 8 seconds or whole recordings, and write them."""
    corpus, model = load(folder, task.sample_rate, task.quantizer), untrained(task)
    stage, best = best_weights(name, task)
    model.load_state_dict(best["model"])
    model.to(task.dtype).float()  # as the file will keep it
    test = excerpts(corpus["test"], 8 * task.sample_rate, sum(map(len, corpus["test"]))).clips
    steps, samples = heard(task, stage, best["steps"])
    card = ModelCard(
        name,
        task.data,
        task.credit,
        steps=steps,
        samples=samples,
        test_bits=validation_loss(model, test, tbptt_length=4096),
        bigram_bits=None if task.quantizer == CoarseFine() else bigram_bits(corpus["train"], test),
        bundled_bits=bundled_bits(model, task.sample_rate),
    )
    print(card)
    save(WEIGHTS / f"{name}.safetensors", model, task.sample_rate, card, task.dtype)


def main() -> None:
    """Train one of them to the end, and pack it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", choices=TASKS)
    parser.add_argument("folders", type=Path, nargs=2)
    parser.add_argument("--pack", action="store_true", help="do not train: pack the best weights so far")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS[options.name]
    if not options.pack:
        corpora = (load(folder, task.sample_rate, task.quantizer) for folder in options.folders)
        for _, history in learn(options.name, task, corpora):
            print(history.valid)
    pack(options.name, task, options.folders[-1])


if __name__ == "__main__":
    main()
