"""The random numbers that a model meets while it trains and is judged: written down, and set aside."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generators(device: torch.device) -> list[torch.Generator]:
    """Those that a model on a device draws from where it is given none: the CPU's, and its GPU's.

    >>> generators(torch.device("cpu")) == [torch.default_generator]
    True

    Chapter: 9.
    """
    gpu = [torch.cuda.default_generators[device.index]] if device.type == "cuda" else []
    return [torch.default_generator, *gpu]


@contextmanager
def set_aside(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Random numbers of a seed, for the time being; afterwards they go on as if nothing had been drawn.

    >>> with set_aside(torch.device("cpu"), seed=3):
    ...     a = torch.rand(1)
    >>> with set_aside(torch.device("cpu"), seed=3):
    ...     b = torch.rand(1)
    >>> torch.equal(a, b)
    True

    Chapter: 9.
    """
    those = generators(device)
    states = [generator.get_state() for generator in those]
    try:
        for generator in those:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(those, states, strict=True):
            generator.set_state(state)
