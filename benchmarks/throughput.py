"""How fast do the paper's models train here, how much of the machine do they use, and what would a whole run
take on others?

    python benchmarks/throughput.py               on 2 CPU cores, about twelve minutes
    python benchmarks/throughput.py --minutes 5   no turn begins later: on a GPU, under ten minutes in all
    python benchmarks/throughput.py --quick       a tiny model, to see that it runs: throughput_quick.json

Whole steps of `sashimi_lib.training.trainer.train`, in turns, of SaShiMi-8, WaveNet-1024, SampleRNN and a
flat S4: on a CPU on segments of 16,000 samples, in float32, and SaShiMi-8 in other ways; on a GPU the paper's
batches and segments, in every precision, compiled and not. Beside them where a step of SaShiMi-8 goes, what
its products take by themselves, and how many of the machine's operations a second are the model's.

What other machines take is computed, not measured (`roofline`): at least so many seconds a step, and the
hours and dollars that follow for the recipe's steps. The same computation for the machine at hand stands
beside what was measured. Writes ``book/results/throughput.json``, or ``throughput_gpu.json``.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from autoregressive import device
from devices import DEVICES, PRICES, PRICES_OF, Device, better, by_name, measured
from memory import peak_of, peak_of_this_process
from result import save_result
from roofline import least_seconds, step_count
from shares import sashimi_shares
from speed import reduced
from timing import now
from torch._dynamo.exc import TorchDynamoException

from sashimi_lib.models import SaShiMiConfig
from sashimi_lib.ssm.s4 import SSMConfig
from sashimi_lib.training import recipes
from sashimi_lib.training.compute import PLAIN, Compute
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
THREADS = 2
ROUNDS, WARM_UP, STEPS = 2, 1, 3  # steps of a turn that are not timed, and that are


class Way(NamedTuple):
    """How a step is computed."""

    precision: str = "float32"
    compute: Compute = PLAIN


Job = tuple[str, Way]  # a model's name, and how


def jobs(models: list[str], gpu: bool) -> list[Job]:
    """What is timed, compilation last: it takes longest, and time may run out."""
    first, compiled, recomputed = models[0], Compute(compile=True), Compute(recompute=True)
    if not gpu:
        ways = [Way("bfloat16"), Way(compute=recomputed), Way(compute=compiled)]
        return [(name, Way()) for name in models] + [(first, way) for way in ways]
    precisions = ["bfloat16", "tf32", "float32"]
    plain = [(name, Way(precision)) for precision in precisions for name in models]
    last = [(name, Way(precision, compiled)) for precision in precisions for name in models]
    return [*plain, (first, Way("bfloat16", recomputed)), *last]


def random_codes(recipe: Recipe) -> list[torch.Tensor]:
    """Two batches: time does not depend on what is heard."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(0, 256, (2 * recipe.training.batch_size, recipe.length), generator=generator))


def learn(recipe: Recipe, way: Way, steps: int, on_step: Callable[[int, float], None] | None = None) -> None:
    """Some steps of training."""
    config = dataclasses.replace(recipe.training, steps=steps, decay="constant", precision=way.precision)
    model = recipe.build(0).to(device())
    train(model, random_codes(recipe), config, on_step=on_step, progress=False, compute=way.compute)


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


def timed(models: dict[str, Recipe], todo: list[Job], until: float) -> dict[Job, Timing]:
    """Every job, in turns, until no more may begin; on a GPU with the most memory that it took."""
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
        except torch.cuda.OutOfMemoryError:
            timings[job] = Timing([], None, "out of memory")
        except TorchDynamoException as error:
            timings[job] = Timing([], None, f"not compiled: {type(error).__name__}")
        else:
            timings[job] = Timing(before.seconds + seconds, peak_of_this_process() if gpu else None)
        if gpu:
            torch.cuda.empty_cache()
        print(*job, timings[job], flush=True)
    return timings


def quickest(seconds: list[float]) -> float | None:
    """What else runs on a machine only slows a step; None of none."""
    return min(seconds, default=None)


def row(recipe: Recipe, way: Way, timing: Timing, peak: float) -> dict[str, object]:
    """One line of the table: a model, computed in one way."""
    step = quickest(timing.seconds)
    return {
        "precision": way.precision,
        "compile": way.compute.compile,
        "recompute": way.compute.recompute,
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
        timing, count = timings[name, Way()], step_count(recipe)
        step = quickest(timing.seconds)
        least = least_seconds(count.operators, machine.peak, machine.bandwidth)
        figures[name] = {
            "computed_seconds": least,
            "measured_over_computed": step and step / least,
            "computed_mebibytes": count.peak_bytes / 2**20,
            "measured_mebibytes": timing.mebibytes,
        }
    return figures


def counted(recipe: Recipe) -> list[dict[str, object]]:
    """What a step of a recipe computes, moves and keeps: the same on any machine."""
    rows = []
    for precision, recompute in itertools.product(("float32", "bfloat16"), (False, True)):
        count = step_count(recipe, precision, Compute(recompute=recompute))
        rows.append(
            {
                "precision": precision,
                "recompute": recompute,
                "flops": count.flops,
                "bytes_moved": count.moved,
                "operators": len(count.operators),
                "mebibytes": count.peak_bytes / 2**20,
            }
        )
    return rows


def computed(recipe: Recipe, machine: Device) -> dict[str, dict[str, object]]:
    """At least so long a step takes on a machine, and a whole run of the recipe, by precision."""
    figures: dict[str, dict[str, object]] = {}
    for precision in [name for name in machine.peak if name != "float64"]:
        count = step_count(recipe, "bfloat16" if precision == "bfloat16" else "float32")
        seconds = least_seconds(count.operators, machine.peak, machine.bandwidth, precision == "tf32")
        hours = recipe.training.steps * seconds / 3600
        dollars = machine.dollars_per_hour
        figures[precision] = {
            "seconds_per_step": seconds,
            "samples_per_second": recipe.samples_per_step / seconds,
            "hours": hours,
            "dollars": None if dollars is None else dollars * hours,
            "mebibytes": count.peak_bytes / 2**20,
            "fits": count.peak_bytes < machine.memory,
        }
    return figures


def main() -> None:
    """Measure, compute, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="no turn begins after so long")
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that it runs")
    options = parser.parse_args()
    until = now() + 60 * options.minutes
    gpu = torch.cuda.is_available()
    torch.set_num_threads(THREADS)
    paper = TINY if options.quick else MODELS
    models = MODELS if gpu else {name: reduced(recipe, SEGMENT) for name, recipe in MODELS.items()}
    models = TINY if options.quick else models
    first = next(iter(models))

    side = 256 if options.quick else 8192 if gpu else 2048
    before = measured(side)
    made_for = by_name(torch.cuda.get_device_name()) if gpu else None
    codes = torch.stack(random_codes(models[first])[:1]).to(device())
    shares = sashimi_shares(models[first].build(0).to(device()), codes, repeats=3)
    print(shares, flush=True)
    todo = [(first, Way()), (first, Way("bfloat16"))] if options.quick else jobs(list(models), gpu)
    timings = timed(models, todo, until)
    here = better(before, measured(side))
    print(here, flush=True)
    if not gpu and not options.quick:
        for (name, way), timing in timings.items():
            timings[name, way] = timing._replace(mebibytes=peak_of(learn_alone, models[name], way))
    whole = quickest(timings[first, Way()].seconds)
    save_result(
        "throughput_quick" if options.quick else "throughput_gpu" if gpu else "throughput",
        question="Time and memory of a training step of the paper's models, here and, computed, elsewhere",
        config={
            "threads": THREADS,
            "rounds": ROUNDS,
            "steps_of_a_turn": STEPS,
            "warm_up": WARM_UP,
            "paper_steps": {name: recipe.training.steps for name, recipe in paper.items()},
            "prices": {"source": PRICES, "date": PRICES_OF},
        },
        figures={
            "models": table(models, timings, made_for or here),
            "shares": shares,
            "products_alone": {
                "step_seconds": whole,
                "products_seconds": shares["products_alone_seconds"],
                "ratio": whole and whole / shares["products_alone_seconds"],
            },
            "machine": dataclasses.asdict(here),
            "makers": made_for and dataclasses.asdict(made_for),
            "check": check(models, timings, here),
            "counted": {name: counted(recipe) for name, recipe in paper.items()},
            "computed": {
                name: {model: computed(recipe, machine) for model, recipe in paper.items()}
                for name, machine in DEVICES.items()
            },
            "devices": {name: dataclasses.asdict(machine) for name, machine in DEVICES.items()},
        },
        units={
            "seconds_per_step": "s of the wall, each step in turn; other figures are of the quickest",
            "peak_mebibytes": "MiB that a model and its training take",
            "utilisation": "of the peak in that precision: a known GPU's by its maker, else measured here",
            "machine": "measured: peak in floating-point operations/s, bandwidth in bytes/s",
            "computed": "not measured: least seconds of a step, by the roofline; hours and dollars of all",
            "counted": "a step at the paper's batch and segment; mebibytes of tensors",
            "share": "of a pass forward and backward",
        },
        repeats=ROUNDS * STEPS,
        seed=0,
    )


if __name__ == "__main__":
    main()
