"""Samples per second of every engine, side by side, and how near that is to the machine's best."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from arithmetic import BYTES, Cost, cost
from timing import interleaved
from wavernn_speed import pruned, random_weights

from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.sparse import sparse
from sashimi_lib.streaming import compiled
from sashimi_lib.streaming.engine import Compiled
from sashimi_lib.training import recipes

SEED, THREADS = 0, (1, 2)
FRAME = 32  # samples after which every tier of every model has stepped: turns are of whole frames
# A compiled loop packs the state before its first sample and unpacks it after the last: at 32 sequences that
# takes as long as some 40 samples of each, which must not count for much.
LEAST = 2_048
SIZES = (2**19, 2**22, 2**24, 2**26)  # bytes that are read over and over, beside those of each model

SASHIMI_8 = recipes.YOUTUBEMIX_SASHIMI_8
GLU = replace(SASHIMI_8, backbone=replace(SASHIMI_8.backbone, glu=True))
DENSE: dict[str, Callable[[], Autoregressive]] = {
    "SaShiMi-2": partial(recipes.YOUTUBEMIX_SASHIMI_2.build, SEED),
    "SaShiMi-8": partial(SASHIMI_8.build, SEED),
    "SaShiMi-8, GLU": partial(GLU.build, SEED),
    "WaveNet-1024": partial(recipes.YOUTUBEMIX_WAVENET_1024.build, SEED),
    "WaveRNN-224": partial(random_weights, 224),
    "WaveRNN-896": partial(random_weights, 896),
}
SPARSE: dict[str, Callable[[], Autoregressive]] = {
    "WaveRNN-224, 90 % sparse": partial(pruned, 224),
    "WaveRNN-896, 90 % sparse": partial(pruned, 896),
}
COMPILED = {**DENSE, **SPARSE}
EAGER: dict[str, Callable[[], Autoregressive]] = {
    "SampleRNN-3": partial(recipes.YOUTUBEMIX_SAMPLERNN_3.build, SEED),
}


class Turn(NamedTuple):
    """Samples that an engine draws in one go, of each sequence of a batch."""

    engine: str
    batch: int
    samples: int
    draw: Callable[[int, int], torch.Tensor]

    def __call__(self) -> None:
        self.draw(self.samples, self.batch).cpu()  # a GPU has drawn them once they are here


def turns(engines: dict[str, Autoregressive], batches: tuple[int, ...], seconds: float) -> list[Turn]:
    """A turn of each engine at each batch, of as many samples as take about so many seconds; and of at least
    `LEAST` of a compiled loop."""
    every = []
    for engine, model in engines.items():
        least = LEAST if isinstance(model, Compiled) else FRAME
        for batch in batches:
            turn = Turn(engine, batch, least, model.generate)
            turn()  # compiles, and makes constants
            for _ in range(2):
                start = time.perf_counter()
                turn()
                frames = turn.samples / FRAME * seconds / (time.perf_counter() - start)
                turn = turn._replace(samples=max(least, FRAME * round(frames)))
            every.append(turn)
    return every


def tried(jobs: dict[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """What each job gives; and, of those that failed, why: one must not cost what the others measured."""
    done, failed = {}, {}
    for name, job in jobs.items():
        try:
            done[name] = job()
        except Exception as error:  # out of memory, say
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"{name} failed: {failed[name]}", flush=True)
    return done, failed


def timed(
    contest: dict[str, list[Turn]], repeats: int, others: dict[str, Callable[[], object]]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Samples per second of every model's turns, in rows; and seconds of other things, in turn with them."""
    every = {(name, turn.engine, turn.batch): turn for name in contest for turn in contest[name]}
    seconds = interleaved({**{str(key): turn for key, turn in every.items()}, **others}, repeats)
    rows = [
        {
            "model": name,
            "engine": engine,
            "batch": batch,
            "samples_per_second": turn.samples * batch / seconds[str((name, engine, batch))],
        }
        for (name, engine, batch), turn in every.items()
    ]
    return rows, {key: seconds[key] for key in others}


def engines(name: str, model: Autoregressive) -> dict[str, Autoregressive]:
    """The ways to draw from a model; the eager step of a pruned one may leave its zeros out as well."""
    ways = {"eager": model}
    if name in SPARSE:
        ways["eager, zeros left out"] = sparse(model)
    if name in COMPILED:
        ways["compiled"] = compiled(model)
    return ways


def rates(batches: tuple[int, ...], repeats: int, seconds: float) -> dict[str, Any]:
    """What models cost, what the machine gives and what engines reach, on one thread and on two, in turns of
    so many seconds."""
    from peaks import matrix_product, streaming_read

    models = {name: make() for name, make in {**COMPILED, **EAGER}.items()}
    costs = {name: cost(model) for name, model in models.items()}
    contest, failed = tried(
        {name: partial(contestants, name, model, batches, seconds) for name, model in models.items()}
    )
    sizes = sorted({*SIZES, *(BYTES * each.resident for each in costs.values())})
    rows, best = [], []
    for threads in THREADS:
        torch.set_num_threads(threads)
        peaks = {"product": matrix_product()} | {str(size): streaming_read(size) for size in sizes}
        speeds, took = timed(contest, repeats, {name: peak.run for name, peak in peaks.items()})
        machine = {name: peak.amount / took[name] for name, peak in peaks.items()}
        for row in speeds:
            row["threads"] = threads
            if row["engine"] == "compiled":
                row |= shares(row, costs[row["model"]], machine)
            print(row, flush=True)
        rows += speeds
        best.append(
            {
                "threads": threads,
                "product": machine.pop("product"),
                "reading": [{"bytes": int(size), "bytes_per_second": x} for size, x in machine.items()],
            }
        )
        print(best[-1], flush=True)
    torch.set_num_threads(1)
    made = {name: figures(models[name]) for name in contest}
    return {"rates": rows, "machine": best, "models": made, "failed": failed}


def contestants(name: str, model: Autoregressive, batches: tuple[int, ...], seconds: float) -> list[Turn]:
    """The turns of all engines of a model."""
    return turns(engines(name, model), batches, seconds)


def shares(row: dict[str, Any], cost: Cost, machine: dict[str, float]) -> dict[str, float]:
    """Which parts of the machine's best a speed comes to. Each thread reads all weights, once a step."""
    batch, steps = row["batch"], row["samples_per_second"] / row["batch"]
    read = min(batch, row["threads"]) * cost.weights + batch * cost.state
    return {
        "share_of_product": steps * batch * cost.multiply_adds / machine["product"],
        "share_of_reading": steps * BYTES * read / machine[str(BYTES * cost.resident)],
    }


def figures(model: Autoregressive) -> dict[str, float]:
    """What a model is made of, and what a sample costs it at the least."""
    each = cost(model)
    return {
        "parameters": sum(x.numel() for x in model.parameters()),
        "multiply_adds": each.multiply_adds,
        "weight_bytes": BYTES * each.weights,
        "state_bytes": BYTES * each.state,
        "resident_bytes": BYTES * each.resident,
    }
