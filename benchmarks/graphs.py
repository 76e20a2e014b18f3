"""How fast do recorded graphs draw on a GPU, beside the eager step, and do they draw the same?

    python benchmarks/graphs.py                 on a GPU, about ten minutes
    python benchmarks/graphs.py --minutes 1     nothing is begun later; the models come in order of interest
    python benchmarks/graphs.py --quick         two tiny models, on a CPU too, to see that it runs

At the paper's sizes, with random weights (times do not depend on what has been learnt): samples per second of
both, by batch, and how many samples of one sequence graphs draw as the same steps do unrecorded. A CPU
records no graphs: the same steps are made there one by one. Writes ``book/results/generation_gpu.json``, anew
after each model and batch, so that what was measured is kept whatever comes then; ``--quick`` writes
``generation_quick.json``.
"""

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rates import DENSE, EAGER, SEED, timed, turns
from result import save_result
from timing import now
from wavernn_speed import random_weights

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
    "tiny WaveRNN": partial(random_weights, 32),
}
BATCHES, REPEATS, SECONDS, DRAWN = (1, 8, 32, 128, 512), 5, 0.25, 320
UNITS = {
    "samples_per_second": "drawn samples, of all sequences, over the median seconds of a turn",
    "equal_samples": "of those drawn from one seed, by graphs and by the same steps unrecorded",
}


def engines(model: Autoregressive) -> dict[str, Autoregressive]:
    """Both ways to draw. Graphs are of one batch, so each batch has an engine of its own."""
    return {"eager": model, "graph": Graphed(model, capture=model.device.type == "cuda")}


def cell(make: Make, name: str, batch: int, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """A row for each engine, of one model at one batch; or one that says why there is none."""
    model = make().to("cuda" if torch.cuda.is_available() else "cpu")
    try:
        rows, _ = timed({name: turns(engines(model), (batch,), seconds)}, repeats, {})
    except RuntimeError as error:  # out of memory is one, and so is what a driver says
        rows = [{"model": name, "batch": batch, "failed": f"{type(error).__name__}: {error}".splitlines()[0]}]
    return rows


def equal_samples(make: Make, drawn: int) -> int:
    """How many of so many samples are the same, by recorded graphs and by the same steps, not recorded: the
    eager step takes other random numbers on a GPU."""
    model = make().to("cuda" if torch.cuda.is_available() else "cpu")
    both = engines(model)["graph"], Graphed(model, capture=False) if model.device.type == "cuda" else model
    one, other = (engine.generate(drawn, seed=SEED) for engine in both)
    return int((one == other).reshape(drawn, -1).all(1).sum())


def highest(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each model and engine the row of the highest throughput."""
    best: dict[str, dict[str, Any]] = {}
    for row in sorted((row for row in rows if "failed" not in row), key=lambda x: x["samples_per_second"]):
        best.setdefault(row["model"], {})[row["engine"]] = row
    return best


def measure(
    models: dict[str, Make],
    batches: tuple[int, ...],
    drawn: int,
    until: float,
    keep: Callable[[dict[str, Any]], object],
    repeats: int = REPEATS,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """All models at all batches, until nothing more may begin; ``keep`` gets what there is after each."""
    figures: dict[str, Any] = {"rates": [], "highest_throughput": {}, "equal_samples": {}, "complete": False}
    for name, batch in itertools.product(models, batches):
        if now() > until:
            return figures
        if name not in figures["equal_samples"]:
            figures["equal_samples"][name] = equal_samples(models[name], drawn)
        figures["rates"] += cell(models[name], name, batch, repeats, seconds)
        figures["highest_throughput"] = highest(figures["rates"])
        figures["complete"] = (name, batch) == ([*models][-1], batches[-1])
        print(*figures["rates"][-2:], sep="\n", flush=True)
        keep(figures)
    return figures


def main() -> None:
    """Measure, and write as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="nothing is begun after so long")
    parser.add_argument("--quick", action="store_true", help="two tiny models")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.quick:
        parser.error("needs a GPU; --quick shows on a CPU that it runs")
    until = now() + 60 * options.minutes
    models, batches = (TINY, (1, 2)) if options.quick else (MODELS, BATCHES)
    repeats, seconds, drawn = (1, 0.0, 32) if options.quick else (REPEATS, SECONDS, DRAWN)

    def keep(figures: dict[str, Any]) -> None:
        save_result(
            "generation_quick" if options.quick else "generation_gpu",
            question="Samples per second of the eager step and of recorded graphs on a GPU, by batch",
            config={"weights": "random", "batches": batches, "seconds_a_turn": seconds, "drawn": drawn},
            figures=figures,
            units=UNITS,
            repeats=repeats,
            seed=SEED,
        )

    measure(models, batches, drawn, until, keep, repeats, seconds)


if __name__ == "__main__":
    main()
