"""Which operators does a training step of the paper's SaShiMi spend its time in, on a GPU?

    python -m benchmarks.speed.profiled --trace runs/trace.json.gz     on a GPU, under a minute
    python -m benchmarks.speed.profiled --quick                        a tiny model, on a CPU too

Profiles whole steps of `sashimi_lib.training.trainer.train` with ``torch.profiler``, after a warm-up. Lists
the operators with the most self time on the GPU, and the share of wall time in which the GPU was busy.
``--trace`` also writes the timeline, for chrome://tracing or Perfetto. Writes
``book/results/profile_gpu.json``, or ``profile_quick.json``.
"""

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from benchmarks.lib.models import PAPER_MODELS, TINY_MODELS, random_codes
from benchmarks.lib.result import save_result
from benchmarks.lib.timing import wall_seconds
from sashimi_lib.training.recipes import Recipe
from sashimi_lib.training.trainer import train

WARM_UP, STEPS = 3, 1  # steps before, and profiled ones, of tens of thousands of events each
TOP = 30  # rows of the table
PRECISIONS = ("float32", "bfloat16")


def operator_events(events: Iterable[Any]) -> list[Any]:
    """The operators among averaged profiler events, without those that repeat their time.

    An operator is an event of the CPU; its self device time is that of the CUDA kernels it launched. The
    kernels also appear as events of the GPU, and the profiler marks whole steps as ``ProfilerStep``.
    """
    return [
        event
        for event in events
        if event.device_type == DeviceType.CPU and not event.key.startswith("ProfilerStep")
    ]


def operator_table(events: Iterable[Any], self_time: str) -> tuple[list[dict[str, Any]], float]:
    """Rows for the `TOP` operators by self time, and the seconds a step of all operators. ``self_time`` names
    the attribute of an event: self time on the GPU or on the CPU, in microseconds."""
    operators = sorted(operator_events(events), key=lambda event: getattr(event, self_time), reverse=True)
    total = sum(getattr(event, self_time) for event in operators) / 1e6 / STEPS
    rows = [
        {
            "name": event.key[:120],
            "calls": event.count / STEPS,
            "milliseconds": getattr(event, self_time) / 1e3 / STEPS,
            "share": getattr(event, self_time) / 1e6 / STEPS / total,
        }
        for event in operators[:TOP]
    ]
    return rows, total


def profile_training(recipe: Recipe, precision: str) -> tuple[dict[str, Any], profile]:
    """Figures of one precision, and the profile. ``device_share``, the share of wall time in which the GPU
    was busy, is None without one."""
    gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    steps = WARM_UP + STEPS
    config = dataclasses.replace(
        recipe.training, steps=steps + 1, decay="constant", precision=precision, warmup=0
    )
    model, ends = recipe.build(0).to("cuda" if gpu else "cpu"), []
    with profile(
        activities=activities, schedule=schedule(wait=WARM_UP - 1, warmup=1, active=STEPS, repeat=1)
    ) as profiler:

        def on_step(step: int, loss: float) -> None:
            profiler.step()
            ends.append(wall_seconds())

        train(model, random_codes(recipe), config, on_step=on_step, progress=False)
    wall = (ends[steps - 1] - ends[WARM_UP - 1]) / STEPS
    self_time = "self_device_time_total" if gpu else "self_cpu_time_total"
    rows, busy = operator_table(profiler.key_averages(), self_time)
    figures = {"seconds_per_step": wall, "device_share": busy / wall if gpu else None, "operators": rows}
    return figures, profiler


def main() -> None:
    """Profile each precision, writing the result after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trace", type=Path, help="write the timeline of the last precision to this file")
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.quick:
        parser.error("needs a GPU; use --quick to try it on a CPU")
    name, recipe = next(iter((TINY_MODELS if options.quick else PAPER_MODELS).items()))
    figures: dict[str, Any] = {"model": name}
    for precision in PRECISIONS:
        figures[precision], profiler = profile_training(recipe, precision)
        print(precision, *figures[precision]["operators"][:5], sep="\n", flush=True)
        save_result(
            "profile_quick" if options.quick else "profile_gpu",
            question="Which operators a training step of the paper's SaShiMi spends its time in",
            config={"batch_size": recipe.training.batch_size, "length": recipe.length, "steps": STEPS},
            figures=figures,
            units={
                "milliseconds": "of a step: the operator's self time on the GPU, or on the CPU without one",
                "share": "of the time of all operators",
                "device_share": "of wall time in which the GPU was busy, under the profiler",
            },
            repeats=STEPS,
            seed=0,
        )
    if options.trace:  # last, since it takes long
        options.trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(options.trace))


if __name__ == "__main__":
    main()
