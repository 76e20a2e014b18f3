"""How fast do the paper's models train on this machine, and how much of its peak do they use?

    python -m benchmarks.speed.throughput               on 2 CPU cores, about seven minutes
    python -m benchmarks.speed.throughput --minutes 5   starts no job after that; on a GPU, under ten minutes
    python -m benchmarks.speed.throughput --only kernels_once   measures that again, keeps the other figures
    python -m benchmarks.speed.throughput --quick       a tiny model, to see that it runs

Times whole steps of `sashimi_lib.training.trainer.train` in turn, for SaShiMi-8, WaveNet-1024, SampleRNN and
a flat S4: on a CPU with segments of 16,000 samples in float32, and SaShiMi-8 in other modes; on a GPU with
the paper's batches and segments, in every precision, compiled and not. For SaShiMi-8 it also measures how the
time of a step divides, the matrix products alone, and the gain of computing SSM kernels once a step
(`benchmarks.lib.kernel_reuse`). The result is written after each job; a job that fails does not stop the
others.

Beside each measured step stands its lower bound on this machine (`benchmarks.lib.roofline`); for other
machines see `benchmarks.speed.bounds`. Writes ``book/results/throughput.json``, ``throughput_gpu.json`` with
a GPU, or ``throughput_quick.json``.
"""

import argparse
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from benchmarks.lib.breakdown import step_breakdown
from benchmarks.lib.devices import Device, best_of, find_device, measure_device
from benchmarks.lib.kernel_reuse import PARTS, time_kernel_reuse
from benchmarks.lib.memory import peak_mebibytes_of, process_peak_mebibytes
from benchmarks.lib.models import PAPER_MODELS, TINY_MODELS, random_codes, reduced
from benchmarks.lib.result import results_folder, save_result
from benchmarks.lib.roofline import least_seconds, step_count
from benchmarks.lib.timing import wall_seconds
from benchmarks.lib.training import default_device
from sashimi_lib.training.execution import DEFAULT_EXECUTION, ExecutionConfig, has_blocks
from sashimi_lib.training.recipes import Recipe
from sashimi_lib.training.trainer import train

SEGMENT = 16_000  # samples of a segment on a CPU
PART = 8_192  # samples at most of each sequence of an accumulated batch
THREADS = 2
ROUNDS, WARM_UP, STEPS = 2, 1, 3  # turns of each job; steps of a turn that are not timed, and timed


class StepMode(NamedTuple):
    """How a training step is computed: its precision; compilation and recomputation."""

    precision: str = "float32"
    execution: ExecutionConfig = DEFAULT_EXECUTION


Job = tuple[str, StepMode]  # a model's name, and how its step is computed


def jobs(models: dict[str, Recipe], gpu: bool) -> tuple[list[Job], list[Job]]:
    """The jobs without compilation, and those with it, which come last since they take longest. Models
    without blocks have nothing to compile."""
    first, compiled = next(iter(models)), ExecutionConfig(compile=True)
    recomputed = ExecutionConfig(
        activation_checkpointing=True, kernel_checkpointing=True
    )  # takes the least memory
    if not gpu:
        plain = [(name, StepMode()) for name in models]
        return [*plain, (first, StepMode("bfloat16")), (first, StepMode(execution=recomputed))], [
            (first, StepMode(execution=compiled))
        ]
    precisions = ["bfloat16", "tf32", "float32"]
    plain = [(name, StepMode(precision)) for precision in precisions for name in models]
    with_blocks = [name for name, recipe in models.items() if has_blocks(recipe.build(0))]
    last = [(name, StepMode(precision, compiled)) for precision in precisions for name in with_blocks]
    return [*plain, (first, StepMode("bfloat16", recomputed))], last


def run_training_steps(
    recipe: Recipe, mode: StepMode, steps: int, on_step: Callable[[int, float], None] | None = None
) -> None:
    """Train a new model on random codes for ``steps`` steps."""
    config = dataclasses.replace(recipe.training, steps=steps, decay="constant", precision=mode.precision)
    model = recipe.build(0).to(default_device())
    train(model, random_codes(recipe), config, on_step=on_step, progress=False, execution=mode.execution)


def step_seconds(recipe: Recipe, mode: StepMode) -> list[float]:
    """Seconds of each step after the warm-up."""
    ends: list[float] = []
    run_training_steps(recipe, mode, WARM_UP + STEPS, on_step=lambda *_: ends.append(wall_seconds()))
    return [end - start for start, end in itertools.pairwise(ends[WARM_UP - 1 :])]


def run_two_steps(recipe: Recipe, mode: StepMode) -> None:
    """Two training steps, to be run in a process of their own."""
    torch.set_num_threads(THREADS)
    run_training_steps(recipe, mode, 2)


class Timing(NamedTuple):
    """What was measured of a job: seconds of each step, peak memory in MiB; or the error that ended it."""

    seconds: list[float]
    mebibytes: float | None
    failed: str | None = None


def describe_error(error: Exception) -> str:
    """An exception in one line, as results store it."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def time_jobs(
    models: dict[str, Recipe],
    jobs: list[Job],
    deadline: float,
    write: Callable[[dict[Job, Timing]], None] = lambda timings: None,
) -> dict[Job, Timing]:
    """Time the jobs in turn, `ROUNDS` times each; none is started after ``deadline``. On a GPU peak memory is
    recorded as well. ``write`` receives all timings so far after each job."""
    gpu = torch.cuda.is_available()
    timings: dict[Job, Timing] = {}
    for _, job in itertools.product(range(ROUNDS), jobs):
        before = timings.setdefault(job, Timing([], None))
        if before.failed or wall_seconds() > deadline:
            continue
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds = step_seconds(models[job[0]], job[1])
        except Exception as error:  # the other jobs go on
            timings[job] = Timing([], None, describe_error(error))
        else:
            timings[job] = Timing(before.seconds + seconds, process_peak_mebibytes() if gpu else None)
        if gpu:
            torch.cuda.empty_cache()
        print(*job, timings[job], flush=True)
        write(timings)
    return timings


def try_measuring(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of a measurement, or ``{"failed": message}``."""
    try:
        return measure()
    except Exception as error:
        return {"failed": describe_error(error)}


def fastest_step(seconds: list[float]) -> float | None:
    """The least of the step times, since other load only slows steps down; None if there are none."""
    return min(seconds, default=None)


def row(recipe: Recipe, mode: StepMode, timing: Timing, peak: float) -> dict[str, object]:
    """One row of the table: a model in one mode."""
    step = fastest_step(timing.seconds)
    return {
        "precision": mode.precision,
        "compile": mode.execution.compile,
        "activation_checkpointing": mode.execution.activation_checkpointing,
        "kernel_checkpointing": mode.execution.kernel_checkpointing,
        "seconds_per_step": timing.seconds,
        "samples_per_second": step and recipe.samples_per_step / step,
        "peak_mebibytes": timing.mebibytes,
        "utilisation": step and step_count(recipe).flops / step / peak,
        "failed": timing.failed or (None if timing.seconds else "no time left"),
    }


def table(
    models: dict[str, Recipe], timings: dict[Job, Timing], machine: Device
) -> dict[str, dict[str, object]]:
    """Everything that was measured, by model."""
    return {
        name: {
            "parameters": sum(p.numel() for p in recipe.build(0).parameters()),
            "samples_per_step": recipe.samples_per_step,
            "length": recipe.length,
            "batch_size": recipe.training.batch_size,
            "flops_per_step": step_count(recipe).flops,
            "ways": [
                row(recipe, mode, timing, machine.peak[mode.precision])
                for (model, mode), timing in timings.items()
                if model == name
            ],
        }
        for name, recipe in models.items()
    }


def compare_with_roofline(
    models: dict[str, Recipe], timings: dict[Job, Timing], machine: Device
) -> dict[str, object]:
    """The lower bounds of `roofline` for this machine, beside what was measured."""
    figures = {}
    for name, recipe in models.items():
        timing, count = timings.get((name, StepMode()), Timing([], None)), step_count(recipe)
        step = fastest_step(timing.seconds)
        least = least_seconds(count.operators, machine.peak, machine.bandwidth)
        figures[name] = {
            "computed_seconds": least,
            "measured_over_computed": step and step / least,
            "computed_mebibytes": count.peak_bytes / 2**20,
            "measured_mebibytes": timing.mebibytes,
        }
    return figures


def kernel_reuse_of(recipe: Recipe) -> dict[str, float]:
    """`time_kernel_reuse` for a recipe's model."""
    model, generator = recipe.build(0).to(default_device()), torch.Generator().manual_seed(0)
    shapes = (PARTS, min(PART, recipe.length)), (1, recipe.length)
    batch, segment = (torch.randint(0, 256, shape, generator=generator) for shape in shapes)
    return time_kernel_reuse(model, batch, segment, ROUNDS * STEPS)


def breakdown_of(recipe: Recipe) -> dict[str, float]:
    """`step_breakdown` for a recipe's model."""
    codes = torch.stack(random_codes(recipe)[:1]).to(default_device())
    return step_breakdown(recipe.build(0).to(default_device()), codes, repeats=3)


PARTS_OF_A_STEP: dict[str, Callable[[Recipe], dict[str, Any]]] = {
    "kernels_once": kernel_reuse_of,
    "shares": breakdown_of,
}


def step_figures(
    models: dict[str, Recipe], timings: dict[Job, Timing], measured: Device, shares: dict[str, Any]
) -> dict[str, Any]:
    """The figures that follow from timings of whole steps."""
    whole = timings.get((next(iter(models)), StepMode()), Timing([], None))
    published = find_device(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return {
        "models": table(models, timings, published or measured),
        "machine": dataclasses.asdict(measured),
        "makers": published and dataclasses.asdict(published),
        "check": compare_with_roofline(models, timings, measured),
        "products_alone": products_alone(fastest_step(whole.seconds), shares),
    }


def products_alone(step_seconds: float | None, shares: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a step, of the matrix products of its linear layers alone, and their ratio."""
    products = shares.get("products_alone_seconds")
    ratio = step_seconds / products if step_seconds and products else None
    return {"step_seconds": step_seconds, "products_seconds": products, "ratio": ratio}


def fewest_steps(models: dict[str, dict[str, Any]]) -> int:
    """The smallest number of timed steps behind a figure: fewer than planned where time ran out."""
    timed_steps = [len(mode["seconds_per_step"]) for model in models.values() for mode in model["ways"]]
    return min(filter(None, timed_steps), default=0)


def write_result(name: str, figures: dict[str, Any]) -> None:
    """Write all figures so far."""
    save_result(
        name,
        question="Time and memory of a training step of the paper's models",
        config={
            "threads": THREADS,
            "rounds": ROUNDS,
            "steps_of_a_turn": STEPS,
            "warm_up": WARM_UP,
            "part": PART,
        },
        figures=figures,
        units={
            "seconds_per_step": "s of wall time, one entry a step; other figures are of the fastest step",
            "peak_mebibytes": "MiB, peak of a model and its training",
            "utilisation": "of the peak in that precision: published for a known GPU, else measured here",
            "machine": "measured: peak in floating-point operations/s, bandwidth in bytes/s",
            "computed": "not measured: lower bound of a step, by the roofline",
            "share": "of a forward and backward pass",
            "kernels_once": "s of a forward and backward pass, the least; price: extra time over plain",
        },
        repeats=fewest_steps(figures["models"]),
        seed=0,
    )


def measure_part(name: str, part: str, recipe: Recipe) -> None:
    """Measure one of `PARTS_OF_A_STEP` again, and replace it in the result that is there."""
    path = results_folder() / f"{name}.json"
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    figures[part] = try_measuring(lambda: PARTS_OF_A_STEP[part](recipe))
    step_seconds = figures["products_alone"]["step_seconds"]
    write_result(name, figures | {"products_alone": products_alone(step_seconds, figures["shares"])})


def measure_all(name: str, models: dict[str, Recipe], deadline: float, quick: bool) -> None:
    """Measure everything, writing the result after each job."""
    gpu, first = torch.cuda.is_available(), next(iter(models.values()))
    side = 256 if quick else 8192 if gpu else 2048
    machine, figures = measure_device(side), {part: {} for part in PARTS_OF_A_STEP}
    timings: dict[Job, Timing] = {}

    def update(new: dict[Job, Timing]) -> None:
        timings.update(new)
        write_result(name, figures | step_figures(models, timings, machine, figures["shares"]))

    plain, compiled = jobs(models, gpu)
    time_jobs(models, plain[:2] if quick else plain, deadline, update)
    for part, measure in PARTS_OF_A_STEP.items():
        figures[part] = try_measuring(functools.partial(measure, first))
    time_jobs(models, [] if quick else compiled, deadline, update)
    if not gpu and not quick:
        for (model, mode), timing in timings.items():
            peak = peak_mebibytes_of(run_two_steps, models[model], mode)
            timings[model, mode] = timing._replace(mebibytes=peak)
    machine = best_of(machine, measure_device(side))
    update(timings)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="start no job after this (default: 10)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--only", choices=PARTS_OF_A_STEP, help="measure one part again")
    options = parser.parse_args()
    deadline, gpu = wall_seconds() + 60 * options.minutes, torch.cuda.is_available()
    torch.set_num_threads(THREADS)
    name = "throughput_quick" if options.quick else "throughput_gpu" if gpu else "throughput"
    models = TINY_MODELS if options.quick else PAPER_MODELS
    if not gpu and not options.quick:
        models = {model: reduced(recipe, SEGMENT) for model, recipe in PAPER_MODELS.items()}
    if options.only:
        measure_part(name, options.only, next(iter(models.values())))
    else:
        measure_all(name, models, deadline, options.quick)


if __name__ == "__main__":
    main()
