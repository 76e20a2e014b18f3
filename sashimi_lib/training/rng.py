"""Seeding of the global random number generators, so that a run can be repeated and resumed (chapter 10)."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(*entropy: int) -> int:
    """Seed the global CPU generators of PyTorch, NumPy and Python; return PyTorch's seed, to seed GPUs with.

    ``entropy`` are integers such as a seed and a step.

    >>> _ = seed_all(0, 7)
    >>> first = torch.rand(1), np.random.rand(), random.random()
    >>> _ = seed_all(0, 7)
    >>> first == (torch.rand(1), np.random.rand(), random.random())
    True

    Chapter: 10.
    """
    torch_seed, numpy_seed, python_seed = map(int, np.random.SeedSequence(entropy).generate_state(3))
    torch.default_generator.manual_seed(torch_seed)
    np.random.seed(numpy_seed)  # noqa: NPY002  # datasets may use it
    random.seed(python_seed)
    return torch_seed


@contextmanager
def preserve_rng_state(device: torch.device | None = None) -> Iterator[None]:
    """Restore the global generators, and that of ``device`` if it is a GPU, at the end of ``with``.

    >>> before = torch.get_rng_state()
    >>> with preserve_rng_state():
    ...     _ = seed_all(1)
    >>> torch.equal(before, torch.get_rng_state())
    True

    Chapter: 10.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    gpus = [device] if device is not None and device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
