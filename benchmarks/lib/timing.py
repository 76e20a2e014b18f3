"""Clocks, and functions timed in turn, so that other load on the machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable

import torch


def wall_seconds() -> float:
    """Wall-clock time in seconds, after all queued GPU work has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def training_seconds() -> float:
    """The clock by which training is budgeted: wall time on a GPU; the CPU time of this process without one,
    since other processes may share the CPU."""
    return wall_seconds() if torch.cuda.is_available() else time.process_time()


def interleaved(
    functions: dict[str, Callable[[], object]],
    repeats: int,
    reduce: Callable[[list[float]], float] = statistics.median,
) -> dict[str, float]:
    """Seconds of each function, called in turn, after one warm-up round: the median of ``repeats``, or the
    least with ``reduce=min``, since other load only ever slows a function down."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            start = wall_seconds()
            function()
            if turn:
                seconds[name].append(wall_seconds() - start)
    return {name: reduce(values) for name, values in seconds.items()}
