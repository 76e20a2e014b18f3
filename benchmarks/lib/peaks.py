"""The peak rates of a CPU: multiply-adds per second in a product of large matrices, and bytes per second when
one block of memory is read repeatedly, from whichever cache holds it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from sashimi_lib.streaming.compiled_ops import JIT_OPTIONS
from sashimi_lib.streaming.vectors import LANES, broadcast, load, store

SIDE, PRODUCTS = 1024, 4
UNROLL = 8  # independent partial sums: with fewer, the latency of additions would limit the reading
BYTES_PER_RUN = 2**31  # of `streaming_read`


class Workload(NamedTuple):
    """A function to be timed, and how many operations or bytes one call takes."""

    run: Callable[[], object]
    amount: float


def matrix_product() -> Workload:
    """Float32 products of square matrices, on PyTorch's threads. Counted in multiply-adds."""
    a, b = torch.randn(2, SIDE, SIDE)

    def run() -> None:
        for _ in range(PRODUCTS):
            a @ b

    return Workload(run, PRODUCTS * SIDE**3)


def streaming_read(size: int, total_bytes: int) -> Workload:
    """Sum a block of ``size`` bytes (rounded down to whole vectors) repeatedly, ``total_bytes`` in all.

    Each of PyTorch's threads reads the whole block, as threads that share a model's weights do. Counted in
    bytes.
    """
    block = UNROLL * LANES
    values = np.ones(max(1, size // 4 // block) * block, np.float32)
    threads, passes = torch.get_num_threads(), max(1, total_bytes // values.nbytes)

    def run() -> list[float]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda _: repeated_sum(values, passes), range(threads)))

    return Workload(run, threads * passes * values.nbytes)


@njit(**JIT_OPTIONS, nogil=True)
def repeated_sum(x, passes):
    """The sum of all values, taken ``passes`` times."""
    s0, s1, s2, s3 = broadcast(0), broadcast(0), broadcast(0), broadcast(0)
    s4, s5, s6, s7 = broadcast(0), broadcast(0), broadcast(0), broadcast(0)
    for _ in range(passes):
        for n in range(0, len(x) // LANES, UNROLL):
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
