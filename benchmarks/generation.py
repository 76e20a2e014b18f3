"""How fast does each engine draw, how near is that to what the machine can do, and does it draw the same?

    python benchmarks/generation.py                  about half an hour on 2 cores with nothing else to do
    python benchmarks/generation.py --only rates     one part, anew: rates, agreement, starting or minutes
    python benchmarks/generation.py --quick          about a minute, to see that it runs; keeps nothing

At the paper's sizes, with random weights (times do not depend on what has been learnt). The parts:

- rates: samples per second of the eager step and of the compiled loop, by batch, on one thread and on two; in
  turns with them, the machine's best at products of matrices and at reading; and which share of it the
  compiled loop reaches, for what a sample costs the model at the least (`arithmetic`).
- agreement: the compiled loop's logits and draws beside those of the eager step, of trained models as well.
- starting: seconds to the first sample in a fresh process, compiled there or found on disk.
- minutes: whether the state stays bounded for ten minutes, and whether their last second agrees.

A part that is done is kept until all are, so that the same command goes on where it stopped, and a part that
fails costs itself alone. Writes ``book/results/generation.json``. What a GPU draws, `graphs` measures.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from agreement import agreement, long_run
from rates import COMPILED, SEED, rates, tried
from result import kept, save_result

from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.pretrained import load

BENCHMARKS = Path(__file__).resolve().parent
RUNS = BENCHMARKS.parent / "runs" / "generation"
TRAINED = ("piano", "wavernn")  # that ship


@dataclass(frozen=True)
class Effort:
    """How much of everything: seconds of a turn and how many of them; samples; starts of these models."""

    batches: tuple[int, ...] = (1, 8, 32)
    repeats: int = 7
    turn: float = 0.25
    forced: int = 16_000
    drawn: int = 1_000
    starting: tuple[str, ...] = ("SaShiMi-8", "WaveNet-1024", "WaveRNN-896", "WaveRNN-896, 90 % sparse")
    starts: int = 3
    minutes: int = 10
    second: int = 16_000


QUICK = Effort((1,), 1, 0, forced=64, drawn=64, starting=("WaveRNN-224",), starts=1, minutes=1, second=64)

START = """
import json, sys, time
from rates import COMPILED
from sashimi_lib.streaming import compiled
model = COMPILED[sys.argv[1]]()
begun = time.perf_counter()
import numba
imported = time.perf_counter()
compiled(model).generate(1)
print(json.dumps({"import_numba": imported - begun, "first_sample": time.perf_counter() - imported}))
"""


def models() -> dict[str, Autoregressive]:
    """All that have a compiled loop, and trained ones."""
    trained = {f"{name}, trained": load(name).model for name in TRAINED}
    return {name: make() for name, make in COMPILED.items()} | trained


def all_rates(effort: Effort) -> dict[str, Any]:
    """`rates`."""
    return rates(effort.batches, effort.repeats, effort.turn)


def agreements(effort: Effort) -> dict[str, Any]:
    """`agreement` of every model that has a compiled loop."""
    figures = {}
    for name, model in models().items():
        figures[name] = agreement(model, effort.teacher_forced_logits, effort.drawn, SEED)
        print(name, figures[name], flush=True)
    return figures


def starting(effort: Effort) -> dict[str, Any]:
    """Seconds of a first sample, in fresh processes: the first compiles, the others find what it kept."""
    figures = {}
    for name in effort.starting:
        with tempfile.TemporaryDirectory() as cache:
            first, *others = (start(name, cache) for _ in range(1 + effort.starts))
        figures[name] = {
            "compiled": first["first_sample"],
            "found": statistics.median(each["first_sample"] for each in others),
            "import_numba": statistics.median(each["import_numba"] for each in others),
        }
        print(name, figures[name], flush=True)
    return figures


def start(name: str, cache: str) -> dict[str, float]:
    """Seconds of importing Numba and of a first sample after that, in a process that keeps compiled code in
    that folder."""
    path = os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS.parent)])
    settings = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": path}
    command = [sys.executable, "-c", START, name]
    return json.loads(subprocess.run(command, env=settings, check=True, capture_output=True).stdout)


def long_runs(effort: Effort) -> dict[str, Any]:
    """`long_run` of SaShiMi-8, and of a smaller one that has been trained."""
    figures = {}
    for name, model in models().items():
        if name in ("SaShiMi-8", "piano, trained"):
            figures[name] = long_run(model, effort.minutes, effort.second, SEED)
            print(name, figures[name], flush=True)
    return figures


PARTS: dict[str, Callable[[Effort], dict[str, Any]]] = {
    "rates": all_rates,
    "agreement": agreements,
    "starting": starting,
    "minutes": long_runs,
}
UNITS = {
    "samples_per_second": "drawn samples, of all sequences, over the median seconds of a turn; of a minute",
    "multiply_adds": "a sample at the least, on the average; no norms, gates, activations or draws",
    "weight_bytes": "bytes of weights read for a sample of one sequence, on the average",
    "state_bytes": "bytes of the state read or written for a sample of one sequence, on the average",
    "resident_bytes": "bytes of all weights and of the state of one sequence",
    "product": "multiply-adds a second in float32 products of 1,024 by 1,024 matrices",
    "bytes_per_second": "bytes read by all threads, each the same piece of memory of that many bytes",
    "share_of_product": "multiply-adds a second over those of `product`",
    "share_of_reading": "bytes a second, of weights and state, over those of reading the resident bytes",
    "whole": "norm of the difference of logits over the norm of the expected ones",
    "worst_sample": "the same, of the sample where it is largest",
    "equal_samples": "of those drawn by the same random numbers, one sequence by each of two engines",
    "compiled": "seconds to the first sample, compiling what makes it",
    "found": "seconds to the first sample, finding that on disk",
    "import_numba": "seconds, before these",
    "largest_state_entry": "largest absolute value after any second of a minute",
}


def main() -> None:
    """Measure, and write the result once every part is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few samples; nothing is kept or written")
    parser.add_argument("--only", choices=PARTS, help="one part, anew, kept for the run of all")
    parser.add_argument("--minutes", type=int, default=10, help="of the long runs (default: 10)")
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error(f"--minutes must be at least 1, got {options.minutes}")
    torch.set_num_threads(1)
    effort = QUICK if options.quick else replace(Effort(), minutes=options.minutes)
    parts = {options.only: PARTS[options.only]} if options.only else PARTS
    if options.quick:
        for part in parts.values():
            part(effort)
        return
    runs = RUNS / f"{options.minutes}_minutes"
    if options.only:
        (runs / f"{options.only}.json").unlink(missing_ok=True)
    figures, failed = tried(
        {name: partial(kept, runs / f"{name}.json", partial(part, effort)) for name, part in parts.items()}
    )
    if failed:
        raise SystemExit(
            f"failed: {', '.join(failed)}; the other parts are kept, and the same command goes on"
        )
    if options.only:
        return
    save_result(
        "generation",
        question="Samples per second of every engine on a CPU, and its share of the machine's best; how near "
        "the compiled loop stays to the eager step; how long it takes to start; whether it lasts",
        config={"weights": "random, the trained models' apart", **asdict(effort)},
        figures=figures,
        units=UNITS,
        repeats=effort.repeats,
        seed=SEED,
    )
    shutil.rmtree(runs)


if __name__ == "__main__":
    main()
