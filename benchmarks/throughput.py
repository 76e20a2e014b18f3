"""How fast do the paper's models train here, and how much of the machine do they use?

    python benchmarks/throughput.py               on 2 CPU cores, about seven minutes
    python benchmarks/throughput.py --minutes 5   no turn begins later: on a GPU, under ten minutes in all
    python benchmarks/throughput.py --only kernels_once   that one anew, the others as they were written
    python benchmarks/throughput.py --quick       a tiny model, to see that it runs: throughput_quick.json

Whole steps of `sashimi_lib.training.trainer.train`, in turns, of SaShiMi-8, WaveNet-1024, SampleRNN and a
flat S4: on a CPU on segments of 16,000 samples, in float32, and SaShiMi-8 in other ways; on a GPU the paper's
batches and segments, in every precision, compiled and not. Beside them where a step of SaShiMi-8 goes, what
its products take by themselves, how many of the machine's operations a second are the model's, and what it
is worth to make kernels once a step (`sharing`). All is written after each job, and an error costs that job
alone.

Beside what was measured stands the least that a step can take here, computed by `roofline`; of other
machines `bounds` computes it. Writes ``book/results/throughput.json``, or ``throughput_gpu.json``.
"""

import argparse
import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from autoregressive import device
from devices import Device, better, by_name, measured
from memory import peak_of, peak_of_this_process
from result import RESULTS, save_result
from roofline import least_seconds, step_count
from shares import sashimi_shares
from sharing import PARTS, kernels_once
from speed import reduced
from timing import now

from sashimi_lib.models import SaShiMiConfig
from sashimi_lib.ssm.s4 import SSMConfig
from sashimi_lib.training import recipes
from sashimi_lib.training.execution import DEFAULT_EXECUTION, ExecutionConfig, has_blocks
from sashimi_lib.training.recipes import Recipe
from sashimi_lib.training.trainer import train

MODELS = {
    "SaShiMi-8": recipes.YOUTUBEMIX_SASHIMI_8,
    "WaveNet-1024": recipes.YOUTUBEMIX_WAVENET_1024,
    "SampleRNN, 3 tiers": recipes.YOUTUBEMIX_SAMPLERNN_3,
    "flat S4, 8 layers": recipes.YOUTUBEMIX_ISOTROPIC_8,
}
TINY = {
    "tiny SaShiMi": dataclasses.replace(
        recipes.YOUTUBEMIX_SASHIMI_8,
        backbone=SaShiMiConfig(d_model=8, n_layers=1, pool=(4,), ssm=SSMConfig(d_state=8)),
        length=128,
    )
}
SEGMENT = 16_000  # samples of a segment on a CPU
PART = 8_192  # samples at most of each sequence of a batch in parts
THREADS = 2
ROUNDS, WARM_UP, STEPS = 2, 1, 3  # steps of a turn that are not timed, and that are


class Way(NamedTuple):
    """How a step is computed."""

    precision: str = "float32"
    execution: ExecutionConfig = DEFAULT_EXECUTION


Job = tuple[str, Way]  # a model's name, and how


def jobs(models: dict[str, Recipe], gpu: bool) -> tuple[list[Job], list[Job]]:
    """What is timed; and last what is compiled, which takes longest, when time may run out. A model without
    blocks has none to compile."""
    first, compiled = next(iter(models)), ExecutionConfig(compile=True)
    recomputed = ExecutionConfig(activation_checkpointing=True, kernel_checkpointing=True)  # the least memory
    if not gpu:
        plain = [(name, Way()) for name in models]
        return [*plain, (first, Way("bfloat16")), (first, Way(execution=recomputed))], [
            (first, Way(execution=compiled))
        ]
    precisions = ["bfloat16", "tf32", "float32"]
    plain = [(name, Way(precision)) for precision in precisions for name in models]
    with_blocks = [name for name, recipe in models.items() if has_blocks(recipe.build(0))]
    last = [(name, Way(precision, compiled)) for precision in precisions for name in with_blocks]
    return [*plain, (first, Way("bfloat16", recomputed))], last


def random_codes(recipe: Recipe) -> list[torch.Tensor]:
    """Two batches: time does not depend on what is heard."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(0, 256, (2 * recipe.training.batch_size, recipe.length), generator=generator))


def learn(recipe: Recipe, way: Way, steps: int, on_step: Callable[[int, float], None] | None = None) -> None:
    """Some steps of training."""
    config = dataclasses.replace(recipe.training, steps=steps, decay="constant", precision=way.precision)
    model = recipe.build(0).to(device())
    train(model, random_codes(recipe), config, on_step=on_step, progress=False, execution=way.execution)


def step_seconds(recipe: Recipe, way: Way) -> list[float]:
    """Seconds of each step, after those of warm-up."""
    done: list[float] = []
    learn(recipe, way, WARM_UP + STEPS, on_step=lambda *_: done.append(now()))
    return [end - start for start, end in itertools.pairwise(done[WARM_UP - 1 :])]


def learn_alone(recipe: Recipe, way: Way) -> None:
    """Two steps in a process of their own."""
    torch.set_num_threads(THREADS)
    learn(recipe, way, 2)


class Timing(NamedTuple):
    """What a job took: seconds of each step in turn, MiB at the most; or why there are none."""

    seconds: list[float]
    mebibytes: float | None
    failed: str | None = None


def failure(error: Exception) -> str:
    """What is written of a job that ended in an error."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def timed(
    models: dict[str, Recipe],
    todo: list[Job],
    until: float,
    write: Callable[[dict[Job, Timing]], None] = lambda timings: None,
) -> dict[Job, Timing]:
    """Every job, in turns, until no more may begin; on a GPU with the most memory that it took. What there is
    goes to ``write`` after each."""
    gpu = torch.cuda.is_available()
    timings: dict[Job, Timing] = {}
    for _, job in itertools.product(range(ROUNDS), todo):
        before = timings.setdefault(job, Timing([], None))
        if before.failed or now() > until:
            continue
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds = step_seconds(models[job[0]], job[1])
        except Exception as error:  # it costs this job alone
            timings[job] = Timing([], None, failure(error))
        else:
            timings[job] = Timing(before.seconds + seconds, peak_of_this_process() if gpu else None)
        if gpu:
            torch.cuda.empty_cache()
        print(*job, timings[job], flush=True)
        write(timings)
    return timings


def attempted(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured, or why it was not."""
    try:
        return measure()
    except Exception as error:
        return {"failed": failure(error)}


def quickest(seconds: list[float]) -> float | None:
    """What else runs on a machine only slows a step; None of none."""
    return min(seconds, default=None)


def row(recipe: Recipe, way: Way, timing: Timing, peak: float) -> dict[str, object]:
    """One line of the table: a model, computed in one way."""
    step = quickest(timing.seconds)
    return {
        "precision": way.precision,
        "compile": way.execution.compile,
        "activation_checkpointing": way.execution.activation_checkpointing,
        "kernel_checkpointing": way.execution.kernel_checkpointing,
        "seconds_per_step": timing.seconds,
        "samples_per_second": step and recipe.samples_per_step / step,
        "peak_mebibytes": timing.mebibytes,
        "utilisation": step and step_count(recipe).flops / step / peak,
        "failed": timing.failed or (None if timing.seconds else "no time was left"),
    }


def table(
    models: dict[str, Recipe], timings: dict[Job, Timing], machine: Device
) -> dict[str, dict[str, object]]:
    """All that was measured, by model."""
    return {
        name: {
            "parameters": sum(p.numel() for p in recipe.build(0).parameters()),
            "samples_per_step": recipe.samples_per_step,
            "length": recipe.length,
            "batch_size": recipe.training.batch_size,
            "flops_per_step": step_count(recipe).flops,
            "ways": [
                row(recipe, way, timing, machine.peak[way.precision])
                for (model, way), timing in timings.items()
                if model == name
            ],
        }
        for name, recipe in models.items()
    }


def check(models: dict[str, Recipe], timings: dict[Job, Timing], machine: Device) -> dict[str, object]:
    """What `roofline` says of the machine at hand, beside what was measured there."""
    figures = {}
    for name, recipe in models.items():
        timing, count = timings.get((name, Way()), Timing([], None)), step_count(recipe)
        step = quickest(timing.seconds)
        least = least_seconds(count.operators, machine.peak, machine.bandwidth)
        figures[name] = {
            "computed_seconds": least,
            "measured_over_computed": step and step / least,
            "computed_mebibytes": count.peak_bytes / 2**20,
            "measured_mebibytes": timing.mebibytes,
        }
    return figures


def sharing(recipe: Recipe) -> dict[str, float]:
    """`kernels_once` of a recipe's model."""
    model, generator = recipe.build(0).to(device()), torch.Generator().manual_seed(0)
    shapes = (PARTS, min(PART, recipe.length)), (1, recipe.length)
    batch, segment = (torch.randint(0, 256, shape, generator=generator) for shape in shapes)
    return kernels_once(model, batch, segment, ROUNDS * STEPS)


def shared_out(recipe: Recipe) -> dict[str, float]:
    """`sashimi_shares` of a recipe's model."""
    codes = torch.stack(random_codes(recipe)[:1]).to(device())
    return sashimi_shares(recipe.build(0).to(device()), codes, repeats=3)


def steps_figures(
    models: dict[str, Recipe], timings: dict[Job, Timing], here: Device, shares: dict[str, Any]
) -> dict[str, Any]:
    """The figures that rest on timings of whole steps."""
    whole = timings.get((next(iter(models)), Way()), Timing([], None))
    made_for = by_name(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return {
        "models": table(models, timings, made_for or here),
        "machine": dataclasses.asdict(here),
        "makers": made_for and dataclasses.asdict(made_for),
        "check": check(models, timings, here),
        "products_alone": products_alone(quickest(whole.seconds), shares),
    }


def products_alone(step_seconds: float | None, shares: dict[str, Any]) -> dict[str, Any]:
    """A step beside the products of its linear layers, by themselves."""
    products = shares.get("products_alone_seconds")
    ratio = step_seconds / products if step_seconds and products else None
    return {"step_seconds": step_seconds, "products_seconds": products, "ratio": ratio}


def fewest_steps(models: dict[str, dict[str, Any]]) -> int:
    """How many steps the least certain of the figures rests on: fewer than planned where time ran out."""
    timed_steps = [len(way["seconds_per_step"]) for model in models.values() for way in model["ways"]]
    return min(filter(None, timed_steps), default=0)


def write(name: str, figures: dict[str, Any]) -> None:
    """All figures so far."""
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
            "seconds_per_step": "s of the wall, each step in turn; other figures are of the quickest",
            "peak_mebibytes": "MiB that a model and its training take",
            "utilisation": "of the peak in that precision: a known GPU's by its maker, else measured here",
            "machine": "measured: peak in floating-point operations/s, bandwidth in bytes/s",
            "computed": "not measured: the least that a step takes, by the roofline",
            "share": "of a pass forward and backward",
            "kernels_once": "s of a pass forward and backward, the least; price: share over plain",
        },
        repeats=fewest_steps(figures["models"]),
        seed=0,
    )


def main() -> None:
    """Measure, compute, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="no turn begins after so long")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--only", choices=["kernels_once", "shares"], help="measure one part")
    options = parser.parse_args()
    until, gpu, quick = now() + 60 * options.minutes, torch.cuda.is_available(), options.quick
    torch.set_num_threads(THREADS)
    name = "throughput_quick" if quick else "throughput_gpu" if gpu else "throughput"
    models = TINY if quick else MODELS
    if not gpu and not quick:
        models = {model: reduced(recipe, SEGMENT) for model, recipe in MODELS.items()}
    first = next(iter(models.values()))
    alone: dict[str, Callable[[], dict[str, Any]]] = {
        "kernels_once": lambda: sharing(first),
        "shares": lambda: shared_out(first),
    }
    if options.only:
        path = RESULTS / f"{name}.json"
        figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
        figures[options.only] = attempted(alone[options.only])
        step_seconds = figures["products_alone"]["step_seconds"]
        write(name, figures | {"products_alone": products_alone(step_seconds, figures["shares"])})
        return

    side = 256 if quick else 8192 if gpu else 2048
    machine, figures = measured(side), {"kernels_once": {}, "shares": {}}
    timings: dict[Job, Timing] = {}

    def note(some: dict[Job, Timing]) -> None:
        timings.update(some)
        write(name, figures | steps_figures(models, timings, machine, figures["shares"]))

    plain, compiled = jobs(models, gpu)
    timed(models, plain[:2] if quick else plain, until, note)
    figures |= {part: attempted(measure) for part, measure in alone.items()}
    timed(models, [] if quick else compiled, until, note)
    if not gpu and not quick:
        for (model, way), timing in timings.items():
            timings[model, way] = timing._replace(mebibytes=peak_of(learn_alone, models[model], way))
    machine = better(machine, measured(side))
    note(timings)


if __name__ == "__main__":
    main()
