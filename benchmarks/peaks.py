"""What a machine gives at the most: multiply-adds a second in a product of large matrices, and bytes a second
read over and over from one piece of memory, which some cache holds or none."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from sashimi_lib.streaming.compiled_ops import JIT_OPTIONS
from sashimi_lib.streaming.vectors import LANES, broadcast, load, store

SIDE, PRODUCTS = 1024, 4
AT_ONCE = 8  # vectors added to sums of their own: fewer, and the adding would take longer than the reading
READ = 2**31  # bytes a turn


class Step(NamedTuple):
    """Something to be timed, and how much of what is counted it does."""

    run: Callable[[], object]
    amount: float


def matrix_product() -> Step:
    """Float32 products of square matrices, in as many threads as PyTorch takes; in multiply-adds."""
    a, b = torch.randn(2, SIDE, SIDE)

    def run() -> None:
        for _ in range(PRODUCTS):
            a @ b

    return Step(run, PRODUCTS * SIDE**3)


def streaming_read(size: int, read: int = READ) -> Step:
    """Sum ``size`` bytes, or a little less, so often that it makes ``read`` of them; each of as many threads
    as PyTorch takes reads all of them, as threads that share a model's weights do. In bytes."""
    block = AT_ONCE * LANES
    numbers = np.ones(max(1, size // 4 // block) * block, np.float32)
    threads, passes = torch.get_num_threads(), max(1, read // numbers.nbytes)

    def run() -> list[float]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda _: total(numbers, passes), range(threads)))

    return Step(run, threads * passes * numbers.nbytes)


@njit(**JIT_OPTIONS, nogil=True)
def total(x, passes):
    """The sum of all numbers, so many times over."""
    s0, s1, s2, s3 = broadcast(0), broadcast(0), broadcast(0), broadcast(0)
    s4, s5, s6, s7 = broadcast(0), broadcast(0), broadcast(0), broadcast(0)
    for _ in range(passes):
        for n in range(0, len(x) // LANES, AT_ONCE):
            s0 += load(x, n)
            s1 += load(x, n + 1)
            s2 += load(x, n + 2)
            s3 += load(x, n + 3)
            s4 += load(x, n + 4)
            s5 += load(x, n + 5)
            s6 += load(x, n + 6)
            s7 += load(x, n + 7)
    sums = np.empty(LANES, np.float32)
    store(s0 + s1 + s2 + s3 + (s4 + s5 + s6 + s7), sums, 0)
    return sums.sum()
