"""Random numbers that follow from a place in a run: whoever draws there draws the same ones again (chapter
10)."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(*place: int) -> int:
    """Start the CPU's global generators, of PyTorch, of NumPy and of Python, from a place; returns PyTorch's
    seed, for those of a GPU.

    >>> _ = seed_all(0, 7)
    >>> first = torch.rand(1), np.random.rand(), random.random()
    >>> _ = seed_all(0, 7)
    >>> first == (torch.rand(1), np.random.rand(), random.random())
    True

    Chapter: 10.
    """
    for_torch, for_numpy, for_python = map(int, np.random.SeedSequence(place).generate_state(3))
    torch.default_generator.manual_seed(for_torch)
    np.random.seed(for_numpy)  # noqa: NPY002  # what is drawn by others, who may use it
    random.seed(for_python)
    return for_torch


@contextmanager
def preserve_rng_state(device: torch.device | None = None) -> Iterator[None]:
    """What is drawn or seeded inside ``with`` leaves these generators as they were, and that of ``device``
    where it is a GPU.

    >>> before = torch.get_rng_state()
    >>> with preserve_rng_state():
    ...     _ = seed_all(1)
    >>> torch.equal(before, torch.get_rng_state())
    True

    Chapter: 10.
    """
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    gpus = [device] if device is not None and device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)
