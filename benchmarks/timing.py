"""Seconds of the wall, of things that take turns, so that a busy machine slows them alike."""

import statistics
import time
from collections.abc import Callable

import torch


def now() -> float:
    """Seconds of the wall, once all that a GPU was told to do is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    steps: dict[str, Callable[[], object]],
    repeats: int,
    of: Callable[[list[float]], float] = statistics.median,
) -> dict[str, float]:
    """Median seconds of each, taking turns, after one turn of warm-up; or the least, ``of=min``: what else
    runs on a machine makes nothing quicker."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            start = now()
            step()
            if turn:
                seconds[name].append(now() - start)
    return {name: of(values) for name, values in seconds.items()}
