"""The most memory that something takes, in a process of its own."""

import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def peak_of_this_process() -> float:
    """MiB at the most so far, on the GPU if there is one. (Linux; getrusage would count the parent in.)"""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10


def peak_of(function: Callable[..., object], *arguments: Any) -> float:
    """MiB that a call takes at the most, beyond what its process had before. Raises RuntimeError where it
    fails."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=_call, args=(answer, function, *arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{function.__name__} failed in a process of its own: its message is above")
    return round(answer.get(), 1)


def _call(answer: multiprocessing.SimpleQueue, function: Callable[..., object], *arguments: Any) -> None:
    before = peak_of_this_process()
    function(*arguments)
    answer.put(peak_of_this_process() - before)
