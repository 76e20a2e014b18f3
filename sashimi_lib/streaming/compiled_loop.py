"""What every compiled loop is to the engine: a model's weights, packed, and how its state is kept."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from sashimi_lib.models.blocks import State
from sashimi_lib.streaming.compiled_ops import SamplingRequest

Tree = Any  # an array, or a nested tuple of arrays; other entries stay as they are
PAGE = 2**21  # bytes of a large page of memory, which Linux gives to arrays of several
LINE = 64  # bytes that a core reads at once


class CompiledLoop(ABC):
    """A model's weights in the layout that its loop wants, and the loop.

    ``codes`` is how many a sample has, ``levels`` how many values each.
    """

    codes: int
    levels: int

    @abstractmethod
    def begin(self, state: State) -> Tree:
        """The model's state as the loop keeps it: arrays of its own, batch first, which it writes to."""

    @abstractmethod
    def end(self, memory: Tree) -> State:
        """What the loop keeps as the model's state."""

    @abstractmethod
    def run(self, codes: np.ndarray, memory: Tree, request: SamplingRequest) -> bool:
        """Write codes, (batch, 1 + samples, codes), after the first ones, which are there already.

        Holds no lock while it runs. False where logits were not finite.
        """


def tree_map(function: Callable[[np.ndarray], np.ndarray], tree: Tree) -> Tree:
    """The same tree with that done to every array."""
    if isinstance(tree, np.ndarray):
        return function(tree)
    if not isinstance(tree, tuple):
        return tree
    parts = [tree_map(function, part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def pack_contiguous(tree: Tree) -> Tree:
    """A copy whose arrays lie in one piece of memory, each from the beginning of a line of the cache: a loop
    that reads all of them over and over is 5 to 8 % faster for it."""
    sizes: list[int] = []

    def measure(x: np.ndarray) -> np.ndarray:
        sizes.append(x.nbytes + -x.nbytes % LINE)
        return x

    tree_map(measure, tree)
    memory = np.empty(sum(sizes) + PAGE, np.uint8)
    free = memory[-memory.ctypes.data % PAGE :]

    def move(x: np.ndarray) -> np.ndarray:
        nonlocal free
        moved = free[: x.nbytes].view(x.dtype).reshape(x.shape)
        moved[...] = x
        free = free[x.nbytes + -x.nbytes % LINE :]
        return moved

    return tree_map(move, tree)
