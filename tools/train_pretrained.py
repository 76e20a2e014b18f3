"""Train the small models that ship with the library, and pack them.

    python tools/train_pretrained.py piano runs/data/piano_bach
    python tools/train_pretrained.py digits runs/data/digits_jackson

The folder holds ``train``, ``valid`` and ``test``, whole recordings in each. About a quarter of an hour each
on one CPU thread; stopped, the same command goes on. The weights of the best validation are then judged on
``test`` and written to ``sashimi_lib/weights``; with ``--pack``, the best so far.
"""

import argparse
import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "benchmarks")]

from corpus import Corpus, excerpts, load, pieces

from sashimi_lib.autoregressive import AudioLM
from sashimi_lib.evaluation.likelihood import bigram_bits
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.pretrained import WEIGHTS, Card, bundled_bits, save
from sashimi_lib.quantize import MuLaw
from sashimi_lib.ssm.s4 import SSMConfig
from sashimi_lib.training.checkpoint import load_checkpoint
from sashimi_lib.training.initial import order_codes
from sashimi_lib.training.trainer import TrainingConfig, train
from sashimi_lib.training.validation import held_out_bits

BACKBONE = SaShiMiConfig(d_model=48, n_layers=2, ssm=SSMConfig(d_state=32))
CONFIG = TrainingConfig(lr=0.008, ssm_lr=0.004, warmup=50, decay="cosine")


@dataclass(frozen=True)
class Task:
    """What a model learns, in sequences of ``length`` samples, and what its card says of that."""

    sample_rate: int
    length: int
    config: TrainingConfig
    data: str
    credit: str


TASKS = {
    "piano": Task(
        sample_rate=16_000,
        length=8192,
        config=replace(CONFIG, steps=1500, batch_size=2, valid_every=250),
        data="Bach on a real piano: 16 minutes to learn from, 1 piece to choose by, 2 to be judged by",
        credit="Kimiko Ishizaka, Open Well-Tempered Clavier (2015) and Open Goldberg Variations (2012), "
        "CC0 1.0",
    ),
    "digits": Task(
        sample_rate=8000,
        length=4096,
        config=replace(CONFIG, steps=1500, batch_size=4, valid_every=250),
        data="Spoken digits, one voice: 39 takes of each to learn from, 3 to choose by, 5 to be judged by",
        credit="Free Spoken Digit Dataset, Zohar Jackson and contributors, speaker jackson, CC BY-SA 4.0",
    ),
}


def streams(clips: list[Tensor], length: int, seed: int, rounds: int = 8) -> list[Tensor]:
    """Spoken digits one after the other in random order, with silences between them, cut into sequences.

    Each begins with a silence and a whole digit, so that a model learns to begin, to end, and to go on.
    """
    chance, sequences = random.Random(seed), []
    for _ in range(rounds):
        order, parts = chance.sample(clips, len(clips)), []
        for clip in order:
            parts += [torch.full((chance.randint(400, 1200),), MuLaw().silence), clip]
            if sum(map(len, parts)) >= length:
                sequences.append(torch.cat(parts)[:length])
                parts = []
    return sequences


def new_model(seed: int = 0) -> AudioLM:
    """The model before training."""
    torch.manual_seed(seed)
    model = AudioLM(MuLaw(), SaShiMi(BACKBONE))
    order_codes(model)
    return model


def learn(name: str, task: Task, corpus: Corpus, checkpoint: Path) -> None:
    """Train to the end, from where the checkpoint stands."""
    if name == "piano":
        data, valid = pieces(corpus["train"], task.length), pieces(corpus["valid"], 4 * task.length)[::4]
    else:
        data, valid = streams(corpus["train"], task.length, seed=0), corpus["valid"]
    history = train(new_model(task.config.seed), data, task.config, checkpoint, valid=valid)
    print(history.valid)


def pack(name: str, task: Task, corpus: Corpus, checkpoint: Path) -> None:
    """Judge the best weights so far on excerpts of ``test``, of 8 seconds or whole, and write them."""
    best, model = load_checkpoint(checkpoint.with_suffix(".best.pt")), new_model()
    model.load_state_dict(best["model"])
    test = excerpts(corpus["test"], 8 * task.sample_rate, sum(map(len, corpus["test"])))
    card = Card(
        name,
        task.data,
        task.credit,
        steps=best["steps"],
        samples=best["steps"] * task.config.batch_size * task.length,
        test_bits=held_out_bits(model, test, truncate=4096),
        bigram_bits=bigram_bits(corpus["train"], test),
        bundled_bits=bundled_bits(model, task.sample_rate),
    )
    print(card)
    save(WEIGHTS / f"{name}.safetensors", model, task.sample_rate, card)


def main() -> None:
    """Train one of them to the end, and pack it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", choices=TASKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pack", action="store_true", help="do not train: pack the best weights so far")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS[options.name]
    corpus = load(options.folder, task.sample_rate, MuLaw())
    checkpoint = ROOT / "runs" / "pretrained" / f"{options.name}.pt"
    if not options.pack:
        learn(options.name, task, corpus, checkpoint)
    pack(options.name, task, corpus, checkpoint)


if __name__ == "__main__":
    main()
