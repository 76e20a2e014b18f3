"""Where does a training step of the paper's SaShiMi go on a GPU, kernel by kernel?

    python benchmarks/profiled.py --trace runs/trace.json.gz     on a GPU, under a minute
    python benchmarks/profiled.py --quick                        a tiny model, on a CPU too

Whole steps of `sashimi_lib.training.trainer.train`, after some of warm-up, seen by ``torch.profiler``: the
operators that took the most time of their own, and how much of the wall the GPU worked at all. ``--trace``
keeps the timeline as well, for chrome://tracing or Perfetto. Writes ``book/results/profile_gpu.json``, or
``profile_quick.json``.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from result import save_result
from throughput import MODELS, TINY, random_codes
from timing import now
from torch.profiler import ProfilerActivity, profile, schedule

from sashimi_lib.training.recipes import Recipe
from sashimi_lib.training.trainer import train

WARM_UP, STEPS = 3, 1  # steps before; steps seen, of tens of thousands of events each
TOP = 30  # rows of the table
PRECISIONS = ("float32", "bfloat16")


def seen(recipe: Recipe, precision: str) -> tuple[dict[str, Any], profile]:
    """The table of one precision, and what share of the wall is the GPU's (None without one); and all that
    was seen."""
    gpu = torch.cuda.is_available()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    steps = WARM_UP + STEPS
    config = dataclasses.replace(
        recipe.training, steps=steps + 1, decay="constant", precision=precision, warmup=0
    )
    model, ends = recipe.build(0).to("cuda" if gpu else "cpu"), []
    with profile(
        activities=kinds, schedule=schedule(wait=WARM_UP - 1, warmup=1, active=STEPS, repeat=1)
    ) as view:

        def step(number: int, loss: float) -> None:
            view.step()
            ends.append(now())

        train(model, random_codes(recipe), config, on_step=step, progress=False)
    own = "self_device_time_total" if gpu else "self_cpu_time_total"
    events = sorted(view.key_averages(), key=lambda event: getattr(event, own), reverse=True)
    wall = (ends[steps - 1] - ends[WARM_UP - 1]) / STEPS
    busy = sum(getattr(event, own) for event in events) / 1e6 / STEPS
    table = {
        "seconds_per_step": wall,
        "device_share": busy / wall if gpu else None,
        "operators": [
            {
                "name": event.key[:120],
                "calls": event.count / STEPS,
                "milliseconds": getattr(event, own) / 1e3 / STEPS,
                "share": getattr(event, own) / 1e6 / STEPS / busy,
            }
            for event in events[:TOP]
        ],
    }
    return table, view


def main() -> None:
    """Profile each precision, writing as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trace", type=Path, help="a file for the timeline of the last precision")
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.quick:
        parser.error("needs a GPU; --quick shows on a CPU that it runs")
    name, recipe = next(iter((TINY if options.quick else MODELS).items()))
    figures: dict[str, Any] = {"model": name}
    for precision in PRECISIONS:
        figures[precision], view = seen(recipe, precision)
        print(precision, *figures[precision]["operators"][:5], sep="\n", flush=True)
        save_result(
            "profile_quick" if options.quick else "profile_gpu",
            question="Which operators a training step of the paper's SaShiMi spends its time in",
            config={"batch_size": recipe.training.batch_size, "length": recipe.length, "steps": STEPS},
            figures=figures,
            units={
                "milliseconds": "of a step, of an operator's own on the GPU, or on the CPU without one",
                "share": "of the time of all operators",
                "device_share": "of the wall in which the GPU worked, under the profiler",
            },
            repeats=STEPS,
            seed=0,
        )
    if options.trace:  # last: it is long
        options.trace.parent.mkdir(parents=True, exist_ok=True)
        view.export_chrome_trace(str(options.trace))


if __name__ == "__main__":
    main()
