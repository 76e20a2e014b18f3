"""How fast does each engine generate on a CPU, how close is that to the machine's peak, and does it agree
with the eager step?

    python -m benchmarks.speed.generation                  about half an hour on 2 idle cores
    python -m benchmarks.speed.generation --only rates     measure one part again
    python -m benchmarks.speed.generation --quick          about a minute, to see that it runs; writes nothing

Models have the paper's sizes and random weights (times do not depend on training). Parts:

- rates: samples per second of the eager step and of the compiled loop by batch size, with one thread and with
  two; timed in turn with them, the machine's peak rates of matrix products and of reading memory; and the
  share of these that the compiled loop reaches, given the minimal cost of a sample
  (`benchmarks.lib.arithmetic`).
- agreement: logits and samples of the compiled loop against those of the eager step; trained models as well.
- starting: seconds to the first sample in a new process, with compilation or with cached code.
- minutes: whether the state stays bounded for ten minutes, and whether the last second agrees.

Each finished part is stored until all are done, so the same command resumes after an interruption; a part
that fails does not stop the others. Writes ``book/results/generation.json``. For GPUs see
`benchmarks.speed.graphs`.
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
from typing import Any

import torch

from benchmarks.lib.agreement import agreement, long_run
from benchmarks.lib.models import SEED
from benchmarks.lib.rates import COMPILED, measure_rates, run_jobs
from benchmarks.lib.result import ROOT, load_or_compute, save_result
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.pretrained import load

RUNS = ROOT / "runs" / "generation"
TRAINED = ("piano", "wavernn")  # models that ship with the library


@dataclass(frozen=True)
class Effort:
    """How much is measured: batch sizes; repeats of a run, and its seconds (``turn``); samples whose logits
    are compared (``forced``) and that are sampled (``drawn``); models whose start-up is timed, and starts of
    each; minutes of the long runs, and samples of one second."""

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
from benchmarks.lib.rates import COMPILED
from sashimi_lib.streaming import compiled
model = COMPILED[sys.argv[1]]()
start = time.perf_counter()
import numba
imported = time.perf_counter()
compiled(model).generate(1)
print(json.dumps({"import_numba": imported - start, "first_sample": time.perf_counter() - imported}))
"""


def models() -> dict[str, Autoregressive]:
    """All models that have a compiled loop, and trained ones."""
    trained = {f"{name}, trained": load(name).model for name in TRAINED}
    return {name: make() for name, make in COMPILED.items()} | trained


def rates(effort: Effort) -> dict[str, Any]:
    """Samples per second of all engines (`measure_rates`)."""
    return measure_rates(effort.batches, effort.repeats, effort.turn)


def agreements(effort: Effort) -> dict[str, Any]:
    """Agreement of engines (`agreement`), of every model that has a compiled loop."""
    figures = {}
    for name, model in models().items():
        figures[name] = agreement(model, effort.teacher_forced_logits, effort.drawn, SEED)
        print(name, figures[name], flush=True)
    return figures


def starting(effort: Effort) -> dict[str, Any]:
    """Seconds to the first sample in new processes: the first one compiles, the others load its cache."""
    figures = {}
    for name in effort.starting:
        with tempfile.TemporaryDirectory() as cache:
            first, *others = (time_start(name, cache) for _ in range(1 + effort.starts))
        figures[name] = {
            "compiled": first["first_sample"],
            "found": statistics.median(each["first_sample"] for each in others),
            "import_numba": statistics.median(each["import_numba"] for each in others),
        }
        print(name, figures[name], flush=True)
    return figures


def time_start(name: str, cache: str) -> dict[str, float]:
    """Seconds to import Numba, and from there to the first sample, in a new process with this cache
    folder."""
    settings = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", START, name]
    return json.loads(subprocess.run(command, env=settings, check=True, capture_output=True).stdout)


def long_runs(effort: Effort) -> dict[str, Any]:
    """Minutes of generation (`long_run`) of SaShiMi-8, and of a smaller model that is trained."""
    figures = {}
    for name, model in models().items():
        if name in ("SaShiMi-8", "piano, trained"):
            figures[name] = long_run(model, effort.minutes, effort.second, SEED)
            print(name, figures[name], flush=True)
    return figures


PARTS: dict[str, Callable[[Effort], dict[str, Any]]] = {
    "rates": rates,
    "agreement": agreements,
    "starting": starting,
    "minutes": long_runs,
}
UNITS = {
    "samples_per_second": "generated samples of all sequences over the median seconds of a run, or a minute",
    "multiply_adds": "minimum for a sample, on average; without norms, gates, activations and sampling",
    "weight_bytes": "bytes of weights read for a sample of one sequence, on average",
    "state_bytes": "bytes of state read or written for a sample of one sequence, on average",
    "resident_bytes": "bytes of all weights and of the state of one sequence",
    "product": "multiply-adds a second in float32 products of 1,024 by 1,024 matrices",
    "bytes_per_second": "bytes read by all threads, which all read the same block of that many bytes",
    "share_of_product": "multiply-adds a second over those of `product`",
    "share_of_reading": "bytes a second, of weights and state, over those of reading the resident bytes",
    "whole": "norm of the difference of logits over the norm of the expected ones",
    "worst_sample": "the same, of the sample where it is largest",
    "equal_samples": "number of equal samples of two engines, from the same random numbers",
    "compiled": "seconds to the first sample, including compilation",
    "found": "seconds to the first sample, with the compiled code cached on disk",
    "import_numba": "seconds, not included in these",
    "largest_state_entry": "largest absolute value after any second of a minute",
}


def main() -> None:
    """Measure, and write the result once every part is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few samples; writes nothing")
    parser.add_argument("--only", choices=PARTS, help="measure one part again, for a later run of all")
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
    figures, failed = run_jobs(
        {
            name: partial(load_or_compute, runs / f"{name}.json", partial(part, effort))
            for name, part in parts.items()
        }
    )
    if failed:
        raise SystemExit(
            f"failed: {', '.join(failed)}; the other parts are stored, and the same command resumes"
        )
    if options.only:
        return
    save_result(
        "generation",
        question="Samples per second of every engine on a CPU, and its share of the machine's peak; "
        "agreement of the compiled loop with the eager step; its start-up time; its state in long runs",
        config={"weights": "random, except in the trained models", **asdict(effort)},
        figures=figures,
        units=UNITS,
        repeats=effort.repeats,
        seed=SEED,
    )
    shutil.rmtree(runs)


if __name__ == "__main__":
    main()
