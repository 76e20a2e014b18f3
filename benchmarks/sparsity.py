"""What a WaveRNN loses when most of its weights go, and whether a small dense one does as well.

    python benchmarks/sparsity.py runs/data/digits_jackson --sample-rate 8000

WaveRNN-224 is trained for the same number of steps dense and at four sparsities, pruned in blocks of 16 x 1
on the paper's schedule squeezed into the run; beside it two dense models as small as what is left at 80 and
90 %. All are judged on the folder's ``test``, and generate in turn on one CPU thread: the pruned ones by the
sparse product. Writes ``book/results/sparsity.json``. About fifteen minutes on one CPU thread; the same
comparison at the paper's size, WaveRNN-896, by ``--hidden 896 --steps 20000`` on a GPU.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from corpus import Corpus, load, pieces, whole
from result import Parts, save_result
from verdict import UNIT, verdict

from sashimi_lib.audio.quantizers import CoarseFine
from sashimi_lib.evaluation.likelihood import clip_bits
from sashimi_lib.models import WaveRNN, WaveRNNConfig
from sashimi_lib.models.sparse import LAYERS, sparse
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.pruning import Pruner, PruningConfig
from sashimi_lib.training.trainer import train

SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95)
SMALL = (0.8, 0.9)  # sparsities whose number of weights a small dense model gets
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def weights(model: WaveRNN) -> int:
    """How many numbers are not zero."""
    return sum(int(p.count_nonzero()) for p in model.parameters())


def as_small_as(target: int) -> int:
    """The hidden size of a dense model of about so many weights."""
    sizes = range(8, 2048, 8)
    return min(
        sizes, key=lambda h: abs(sum(p.numel() for p in WaveRNN(WaveRNNConfig(h)).parameters()) - target)
    )


def learn(hidden: int, sparsity: float, data: list[torch.Tensor], config: TrainingConfig) -> WaveRNN:
    """A model trained and pruned: from a tenth of the run to six tenths, the rest is for getting over it."""
    torch.manual_seed(config.seed)
    model = WaveRNN(WaveRNNConfig(hidden)).to(DEVICE)
    if sparsity == 0:
        train(model, data, config, progress=False)
        return model
    steps = config.steps
    pruner = Pruner(
        model, PruningConfig(sparsity, start=steps // 10, ramp=steps // 2, every=max(1, steps // 50))
    )
    train(model, data, config, on_step=pruner, progress=False)
    pruner.bake_masks()
    return model


def generation(models: dict[str, WaveRNN], length: int, rounds: int) -> dict[str, float]:
    """Samples per second at batch 1, the models in turn; the median of the rounds, after one to warm up."""
    took: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            start = time.process_time()
            model.generate(length, seed=0)
            took[name].append(time.process_time() - start)
    return {name: round(length / statistics.median(each[1:]), 1) for name, each in took.items()}


def main() -> None:
    """Train and judge all, then write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample-rate", type=int, required=True)
    parser.add_argument("--hidden", type=int, default=224)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus = load(options.folder, options.sample_rate, CoarseFine())
    data = pieces(corpus["train"], options.length)
    config = TrainingConfig(
        steps=options.steps,
        batch_size=options.batch_size,
        lr=0.004,
        warmup=20,
        decay="cosine",
        clip_norm=1.0,
        seed=options.seed,
    )
    with Parts() as parts:
        compare(options, corpus, data, config, parts)


def compare(
    options: argparse.Namespace,
    corpus: Corpus,
    data: list[torch.Tensor],
    config: TrainingConfig,
    parts: Parts,
) -> None:
    """Train and judge one after another, then let all generate in turn; what there is is written after
    each."""
    test, models, figures = whole(corpus["test"]), {}, {}

    def add(name: str, hidden: int, sparsity: float) -> None:
        with parts.of(name):
            models[name] = learn(hidden, sparsity, data, config)
            bits = verdict(clip_bits(models[name], test.clips), test)
            figures[name] = {"weights": weights(models[name]), "test_bits": bits}
            print(name, figures[name], flush=True)
            record(options, corpus, figures)

    for s in SPARSITIES:
        add(f"{s:.0%}", options.hidden, s)
    for s in SMALL:
        with parts.of(f"as small as {s:.0%}"):
            hidden = as_small_as(weights(models[f"{s:.0%}"]))
            add(f"dense-{hidden}", hidden, 0)
    pruned = {f"{s:.0%}" for s in SPARSITIES if s > 0}
    with parts.of("generation"):
        fast = {
            name: sparse(model.cpu()) if name in pruned else model.cpu() for name, model in models.items()
        }
        for name, speed in generation(fast, 2000, rounds=5).items():
            figures[name]["samples_per_second"] = speed
        record(options, corpus, figures)


def record(options: argparse.Namespace, corpus: Corpus, figures: dict[str, dict[str, Any]]) -> None:
    """Write the result."""
    save_result(
        "sparsity",
        question="Bits and generation speed of a WaveRNN by the share of its weights that was pruned",
        config=vars(options) | {"folder": options.folder.name, "block": [16, 1], "layers": LAYERS},
        figures={"sparsities": SPARSITIES, "models": figures},
        units={
            "test_bits": f"{UNIT}; a sample has 16 bits",
            "samples_per_second": "generated samples per second of processor time, batch 1, one CPU thread",
            "weights": "numbers that are not zero",
        },
        repeats=1,
        seed=options.seed,
        data=f"{options.folder.name}, {len(corpus['train'])} recordings to learn from, "
        f"{len(corpus['test'])} to be judged by",
    )


if __name__ == "__main__":
    main()
