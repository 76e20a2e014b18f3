"""Samples per second of every sampling engine, and their share of the machine's peak rates."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks.lib.arithmetic import BYTES, Cost, cost
from benchmarks.lib.models import SEED, pruned_wavernn, random_wavernn
from benchmarks.lib.timing import interleaved
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.sparse import sparse
from sashimi_lib.streaming import compiled
from sashimi_lib.streaming.engine import Compiled
from sashimi_lib.training import recipes

THREADS = (1, 2)
FRAME = 32  # samples in which every tier of every model steps: a run generates whole frames
# A compiled loop packs the state before its first sample and unpacks it after the last: with 32 sequences
# that takes as long as about 40 samples of each, which must be a small part of a run.
MIN_COMPILED_SAMPLES = 2_048
BLOCK_SIZES = (2**19, 2**22, 2**24, 2**26)  # bytes that are read repeatedly, beside each model's own

SASHIMI_8 = recipes.YOUTUBEMIX_SASHIMI_8
GLU = replace(SASHIMI_8, backbone=replace(SASHIMI_8.backbone, glu=True))
DENSE: dict[str, Callable[[], Autoregressive]] = {
    "SaShiMi-2": partial(recipes.YOUTUBEMIX_SASHIMI_2.build, SEED),
    "SaShiMi-8": partial(SASHIMI_8.build, SEED),
    "SaShiMi-8, GLU": partial(GLU.build, SEED),
    "WaveNet-1024": partial(recipes.YOUTUBEMIX_WAVENET_1024.build, SEED),
    "WaveRNN-224": partial(random_wavernn, 224),
    "WaveRNN-896": partial(random_wavernn, 896),
}
SPARSE: dict[str, Callable[[], Autoregressive]] = {
    "WaveRNN-224, 90 % sparse": partial(pruned_wavernn, 224),
    "WaveRNN-896, 90 % sparse": partial(pruned_wavernn, 896),
}
COMPILED = {**DENSE, **SPARSE}
EAGER: dict[str, Callable[[], Autoregressive]] = {
    "SampleRNN-3": partial(recipes.YOUTUBEMIX_SAMPLERNN_3.build, SEED),
}


class GenerationRun(NamedTuple):
    """One timed call: an engine generates ``samples`` samples of each sequence of a batch."""

    engine: str
    batch: int
    samples: int
    generate: Callable[[int, int], torch.Tensor]

    def __call__(self) -> None:
        self.generate(self.samples, self.batch).cpu()  # waits for a GPU


def calibrated_runs(
    engines: dict[str, Autoregressive], batches: tuple[int, ...], seconds: float
) -> list[GenerationRun]:
    """A run of each engine at each batch size, with as many samples as take about ``seconds``; at least
    `MIN_COMPILED_SAMPLES` with a compiled loop."""
    runs = []
    for engine, model in engines.items():
        least = MIN_COMPILED_SAMPLES if isinstance(model, Compiled) else FRAME
        for batch in batches:
            run = GenerationRun(engine, batch, least, model.generate)
            run()  # compiles, and computes constants
            for _ in range(2):
                start = time.perf_counter()
                run()
                frames = run.samples / FRAME * seconds / (time.perf_counter() - start)
                run = run._replace(samples=max(least, FRAME * round(frames)))
            runs.append(run)
    return runs


def run_jobs(jobs: dict[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The results of all jobs, and the error messages of those that failed, which do not stop the others."""
    results, errors = {}, {}
    for name, job in jobs.items():
        try:
            results[name] = job()
        except Exception as error:  # such as out of memory
            errors[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"{name} failed: {errors[name]}", flush=True)
    return results, errors


def time_runs(
    runs_of: dict[str, list[GenerationRun]], repeats: int, others: dict[str, Callable[[], object]]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Samples per second of every model's runs, as rows, and the seconds of other functions, all in turn."""
    runs = {(name, run.engine, run.batch): run for name in runs_of for run in runs_of[name]}
    seconds = interleaved({**{str(key): run for key, run in runs.items()}, **others}, repeats)
    rows = [
        {
            "model": name,
            "engine": engine,
            "batch": batch,
            "samples_per_second": run.samples * batch / seconds[str((name, engine, batch))],
        }
        for (name, engine, batch), run in runs.items()
    ]
    return rows, {key: seconds[key] for key in others}


def engines_of(name: str, model: Autoregressive) -> dict[str, Autoregressive]:
    """The engines of a model: eager, eager with sparse products if it is pruned, and compiled."""
    engines = {"eager": model}
    if name in SPARSE:
        engines["eager, zeros left out"] = sparse(model)
    if name in COMPILED:
        engines["compiled"] = compiled(model)
    return engines


def model_runs(
    name: str, model: Autoregressive, batches: tuple[int, ...], seconds: float
) -> list[GenerationRun]:
    """The calibrated runs of all engines of a model."""
    return calibrated_runs(engines_of(name, model), batches, seconds)


def measure_rates(batches: tuple[int, ...], repeats: int, seconds: float) -> dict[str, Any]:
    """Samples per second of every engine, with one thread and with two, the machine's peak rates, and which
    share of them each compiled loop reaches."""
    from benchmarks.lib import peaks  # needs Numba, which GPU machines may lack

    models = {name: make() for name, make in {**COMPILED, **EAGER}.items()}
    costs = {name: cost(model) for name, model in models.items()}
    runs, errors = run_jobs(
        {name: partial(model_runs, name, model, batches, seconds) for name, model in models.items()}
    )
    sizes = sorted({*BLOCK_SIZES, *(BYTES * each.resident for each in costs.values())})
    rows, machines = [], []
    for threads in THREADS:
        torch.set_num_threads(threads)
        workloads = {"product": peaks.matrix_product()} | {
            str(size): peaks.streaming_read(size, peaks.BYTES_PER_RUN) for size in sizes
        }
        timed, took = time_runs(runs, repeats, {name: load.run for name, load in workloads.items()})
        machine = {name: load.amount / took[name] for name, load in workloads.items()}
        for row in timed:
            row["threads"] = threads
            if row["engine"] == "compiled":
                row |= shares_of_peak(row, costs[row["model"]], machine)
            print(row, flush=True)
        rows += timed
        machines.append(
            {
                "threads": threads,
                "product": machine.pop("product"),
                "reading": [{"bytes": int(size), "bytes_per_second": x} for size, x in machine.items()],
            }
        )
        print(machines[-1], flush=True)
    torch.set_num_threads(1)
    described = {name: describe_cost(models[name]) for name in runs}
    return {"rates": rows, "machine": machines, "models": described, "failed": errors}


def shares_of_peak(row: dict[str, Any], cost: Cost, machine: dict[str, float]) -> dict[str, float]:
    """The shares of the machine's peak rates that a speed reaches. Each thread reads all weights, once a
    step."""
    batch, steps = row["batch"], row["samples_per_second"] / row["batch"]
    read = min(batch, row["threads"]) * cost.weights + batch * cost.state
    return {
        "share_of_product": steps * batch * cost.multiply_adds / machine["product"],
        "share_of_reading": steps * BYTES * read / machine[str(BYTES * cost.resident)],
    }


def describe_cost(model: Autoregressive) -> dict[str, float]:
    """The size of a model, and the minimal cost of a sample."""
    each = cost(model)
    return {
        "parameters": sum(x.numel() for x in model.parameters()),
        "multiply_adds": each.multiply_adds,
        "weight_bytes": BYTES * each.weights,
        "state_bytes": BYTES * each.state,
        "resident_bytes": BYTES * each.resident,
    }
