"""States of several sequences, taken apart and put together: each process, each part of a batch has some."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def each_tensor(change: Any, *states: Any) -> Any:
    """``change`` of each tensor of a state (or of each few, of states of one shape), in the same tuples.

    >>> each_tensor(lambda a, b: a + b, (torch.tensor(1), ()), (torch.tensor(2), ()))
    (tensor(3), ())

    Chapter: 7.
    """
    if isinstance(states[0], Tensor):
        return change(*states)
    return tuple(each_tensor(change, *parts) for parts in zip(*states, strict=True))


def rows_of(state: Any, rows: slice) -> Any:
    """The state of some of the sequences. What all of them share, a tensor without axes, stays as it is.

    >>> rows_of((torch.arange(4), torch.tensor(7)), slice(1, 3))
    (tensor([1, 2]), tensor(7))

    Chapter: 10. Inverse: `together`.
    """
    return each_tensor(lambda x: x[rows] if x.ndim else x, state)


def together(states: Sequence[Any]) -> Any:
    """The state of all sequences, from those of some each.

    >>> together([(torch.arange(2), torch.tensor(7)), (torch.arange(3), torch.tensor(7))])
    (tensor([0, 1, 0, 1, 2]), tensor(7))

    Chapter: 10. Inverse: `rows_of`.
    """
    return each_tensor(lambda *parts: torch.cat(parts) if parts[0].ndim else parts[0], *states)


def share(number: int, part: int, of: int) -> slice:
    """Which of ``number`` things in a row are in part ``part`` of so many, as equal as can be.

    >>> [list(range(5))[share(5, part, of=2)] for part in (0, 1)]
    [[0, 1], [2, 3, 4]]

    Chapter: 10.
    """
    return slice(part * number // of, (part + 1) * number // of)
