"""The peak memory of a call, measured in a process of its own."""

import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def process_peak_mebibytes() -> float:
    """Peak memory of this process so far, in MiB, on the GPU if there is one.

    On a CPU Linux is needed: getrusage would count the parent's memory as well.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10


def peak_mebibytes_of(function: Callable[..., object], *arguments: Any) -> float:
    """Peak memory of a call in MiB, above what its process used before. RuntimeError if the call fails."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=_measure, args=(answer, function, *arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{function.__name__} failed in a subprocess; its traceback is above")
    return round(answer.get(), 1)


def _measure(answer: multiprocessing.SimpleQueue, function: Callable[..., object], *arguments: Any) -> None:
    before = process_peak_mebibytes()
    function(*arguments)
    answer.put(process_peak_mebibytes() - before)
