"""What does a WaveRNN lose by pruning most of its weights, and does a small dense one do as well?

    python -m benchmarks.quality.sparsity runs/data/digits_jackson --sample-rate 8000

WaveRNN-224 is trained for the same number of steps dense and at four sparsities, pruned in blocks of 16 x 1
on the paper's schedule, shortened to the run; and two dense models with as many weights as remain at 80 and
90 %. All are evaluated on ``test`` of the folder, and generate in turn on one CPU thread, the pruned ones by
sparse products. Writes ``book/results/sparsity.json``. About fifteen minutes on one CPU thread; for the
paper's size, WaveRNN-896, use ``--hidden 896 --steps 20000`` on a GPU.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.corpus import CodesBySplit, load_codes, segments, whole_recordings
from benchmarks.lib.evaluation import UNIT, summarize_bits
from benchmarks.lib.result import ErrorCollector, save_result
from benchmarks.lib.training import default_device
from sashimi_lib.audio.quantizers import CoarseFine
from sashimi_lib.evaluation.likelihood import clip_bits
from sashimi_lib.models import WaveRNN, WaveRNNConfig
from sashimi_lib.models.sparse import LAYERS, sparse
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.pruning import Pruner, PruningConfig
from sashimi_lib.training.trainer import train

SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95)
MATCHED = (0.8, 0.9)  # sparsities to which a small dense model of as many weights is compared


def nonzero_weights(model: WaveRNN) -> int:
    """The number of nonzero parameters."""
    return sum(int(p.count_nonzero()) for p in model.parameters())


def hidden_size_of(target: int) -> int:
    """The hidden size of a dense model with about ``target`` parameters."""
    sizes = range(8, 2048, 8)
    return min(
        sizes, key=lambda h: abs(sum(p.numel() for p in WaveRNN(WaveRNNConfig(h)).parameters()) - target)
    )


def train_and_prune(
    hidden: int, sparsity: float, data: list[torch.Tensor], config: TrainingConfig
) -> WaveRNN:
    """A model trained and gradually pruned, from a tenth of the run to six tenths; the rest is for
    recovery."""
    torch.manual_seed(config.seed)
    model = WaveRNN(WaveRNNConfig(hidden)).to(default_device())
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
    """Samples per second at batch size 1, the models in turn; the median of the rounds after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            start = time.process_time()
            model.generate(length, seed=0)
            seconds[name].append(time.process_time() - start)
    return {name: round(length / statistics.median(each[1:]), 1) for name, each in seconds.items()}


def main() -> None:
    """Train and evaluate all models and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample-rate", type=int, required=True)
    parser.add_argument("--hidden", type=int, default=224, help="hidden size")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus = load_codes(options.folder, options.sample_rate, CoarseFine())
    data = segments(corpus["train"], options.length)
    config = TrainingConfig(
        steps=options.steps,
        batch_size=options.batch_size,
        lr=0.004,
        warmup=20,
        decay="cosine",
        clip_norm=1.0,
        seed=options.seed,
    )
    with ErrorCollector() as errors:
        compare(options, corpus, data, config, errors)


def compare(
    options: argparse.Namespace,
    corpus: CodesBySplit,
    data: list[torch.Tensor],
    config: TrainingConfig,
    errors: ErrorCollector,
) -> None:
    """Train and evaluate the models one after another, then time generation in turn; the result is written
    after each."""
    test, models, figures = whole_recordings(corpus["test"]), {}, {}

    def add(name: str, hidden: int, sparsity: float) -> None:
        with errors.collect(name):
            models[name] = train_and_prune(hidden, sparsity, data, config)
            bits = summarize_bits(clip_bits(models[name], test.clips), test)
            figures[name] = {"weights": nonzero_weights(models[name]), "test_bits": bits}
            print(name, figures[name], flush=True)
            write_result(options, corpus, figures)

    for s in SPARSITIES:
        add(f"{s:.0%}", options.hidden, s)
    for s in MATCHED:
        with errors.collect(f"as small as {s:.0%}"):
            hidden = hidden_size_of(nonzero_weights(models[f"{s:.0%}"]))
            add(f"dense-{hidden}", hidden, 0)
    pruned = {f"{s:.0%}" for s in SPARSITIES if s > 0}
    with errors.collect("generation"):
        engines = {
            name: sparse(model.cpu()) if name in pruned else model.cpu() for name, model in models.items()
        }
        for name, speed in generation(engines, 2000, rounds=5).items():
            figures[name]["samples_per_second"] = speed
        write_result(options, corpus, figures)


def write_result(
    options: argparse.Namespace, corpus: CodesBySplit, figures: dict[str, dict[str, Any]]
) -> None:
    """Write the result."""
    save_result(
        "sparsity",
        question="Bits and generation speed of a WaveRNN by sparsity",
        config=vars(options) | {"folder": options.folder.name, "block": [16, 1], "layers": LAYERS},
        figures={"sparsities": SPARSITIES, "models": figures},
        units={
            "test_bits": f"{UNIT}; a sample has 16 bits",
            "samples_per_second": "generated samples per second of processor time, batch 1, one CPU thread",
            "weights": "number of nonzero parameters",
        },
        repeats=1,
        seed=options.seed,
        data=f"{options.folder.name}, {len(corpus['train'])} recordings for training, "
        f"{len(corpus['test'])} for the test",
    )


if __name__ == "__main__":
    main()
