"""How fast do CUDA graphs generate on a GPU, beside the eager step, and do they give the same samples?

    python -m benchmarks.speed.graphs                 on a GPU, about ten minutes
    python -m benchmarks.speed.graphs --minutes 1     starts nothing after that; main models come first
    python -m benchmarks.speed.graphs --quick         two tiny models, on a CPU too, to see that it runs

Models have the paper's sizes and random weights (times do not depend on training). Measures samples per
second of both engines by batch size, and how many samples of one sequence graphs generate equal to the same
steps unrecorded. On a CPU nothing is recorded: the same steps run one by one. Writes
``book/results/generation_gpu.json`` after each model and batch size, so nothing is lost in an interruption;
``--quick`` writes ``generation_quick.json``.
"""

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.lib.models import SEED, random_wavernn
from benchmarks.lib.rates import DENSE, EAGER, calibrated_runs, time_runs
from benchmarks.lib.result import save_result
from benchmarks.lib.timing import wall_seconds
from benchmarks.lib.training import default_device
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SaShiMiConfig
from sashimi_lib.models.audio_lm import new_model
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.streaming.graph import Graphed

Make = Callable[[], Autoregressive]
FIRST = ("SaShiMi-8", "WaveNet-1024", "WaveRNN-896", "SampleRNN-3")
MODELS = {name: {**DENSE, **EAGER}[name] for name in (*FIRST, *sorted({*DENSE, *EAGER} - {*FIRST}))}
TINY: dict[str, Make] = {
    "tiny SaShiMi": lambda: new_model(SaShiMiConfig(d_model=4, n_layers=1, pool=(2,)), MuLaw()),
    "tiny WaveRNN": partial(random_wavernn, 32),
}
BATCHES, REPEATS, SECONDS = (1, 8, 32, 128, 512), 5, 0.25  # seconds of a run
COMPARED = 320  # samples that are compared with those of unrecorded steps
UNITS = {
    "samples_per_second": "generated samples, of all sequences, over the median seconds of a run",
    "equal_samples": "number of equal samples from one seed, by graphs and by the same steps unrecorded",
}


def engines(model: Autoregressive) -> dict[str, Autoregressive]:
    """The eager step and CUDA graphs. Graphs are recorded for one batch size, so each has its own engine."""
    return {"eager": model, "graph": Graphed(model, capture=model.device.type == "cuda")}


def slice_states(make: Make, name: str, batch: int, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """A row for each engine of one model at one batch size, or one row with the error that occurred."""
    model = make().to(default_device())
    try:
        rows, _ = time_runs({name: calibrated_runs(engines(model), (batch,), seconds)}, repeats, {})
    except RuntimeError as error:  # such as out of memory, or a driver's error
        rows = [{"model": name, "batch": batch, "failed": f"{type(error).__name__}: {error}".splitlines()[0]}]
    return rows


def equal_samples(make: Make, n_samples: int) -> int:
    """How many of ``n_samples`` samples are equal, by recorded graphs and by the same steps unrecorded. (On a
    GPU the eager step consumes random numbers in another order.)"""
    model = make().to(default_device())
    both = engines(model)["graph"], Graphed(model, capture=False) if model.device.type == "cuda" else model
    one, other = (engine.generate(n_samples, seed=SEED) for engine in both)
    return int((one == other).reshape(n_samples, -1).all(1).sum())


def highest(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The row of the highest throughput, by model and engine."""
    best: dict[str, dict[str, Any]] = {}
    for row in sorted((row for row in rows if "failed" not in row), key=lambda x: x["samples_per_second"]):
        best.setdefault(row["model"], {})[row["engine"]] = row
    return best


def measure(
    models: dict[str, Make],
    batches: tuple[int, ...],
    compared: int,
    deadline: float,
    write: Callable[[dict[str, Any]], object],
    repeats: int = REPEATS,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Measure all models at all batch sizes; none is started after ``deadline``. ``write`` receives all
    figures so far after each."""
    figures: dict[str, Any] = {"rates": [], "highest_throughput": {}, "equal_samples": {}, "complete": False}
    for name, batch in itertools.product(models, batches):
        if wall_seconds() > deadline:
            return figures
        if name not in figures["equal_samples"]:
            figures["equal_samples"][name] = equal_samples(models[name], compared)
        figures["rates"] += slice_states(models[name], name, batch, repeats, seconds)
        figures["highest_throughput"] = highest(figures["rates"])
        figures["complete"] = (name, batch) == ([*models][-1], batches[-1])
        print(*figures["rates"][-2:], sep="\n", flush=True)
        write(figures)
    return figures


def main() -> None:
    """Measure, writing the result after each model and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="start nothing after this (default: 10)")
    parser.add_argument("--quick", action="store_true", help="two tiny models")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.quick:
        parser.error("needs a GPU; use --quick to try it on a CPU")
    deadline = wall_seconds() + 60 * options.minutes
    models, batches = (TINY, (1, 2)) if options.quick else (MODELS, BATCHES)
    repeats, seconds, compared = (1, 0.0, 32) if options.quick else (REPEATS, SECONDS, COMPARED)

    def write(figures: dict[str, Any]) -> None:
        save_result(
            "generation_quick" if options.quick else "generation_gpu",
            question="Samples per second of the eager step and of recorded graphs on a GPU, by batch",
            config={"weights": "random", "batches": batches, "seconds_a_turn": seconds, "drawn": compared},
            figures=figures,
            units=UNITS,
            repeats=repeats,
            seed=SEED,
        )

    measure(models, batches, compared, deadline, write, repeats, seconds)


if __name__ == "__main__":
    main()
