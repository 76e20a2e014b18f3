"""States of several sequences, split and concatenated along the batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def map_state(change: Any, *states: Any) -> Any:
    """``change`` of each tensor of a state (or of each few, of states of one shape), in the same tuples.

    >>> map_state(lambda a, b: a + b, (torch.tensor(1), ()), (torch.tensor(2), ()))
    (tensor(3), ())

    Chapter: 7.
    """
    if isinstance(states[0], Tensor):
        return change(*states)
    return tuple(map_state(change, *parts) for parts in zip(*states, strict=True))


def slice_states(state: Any, rows: slice) -> Any:
    """The state of some of the sequences. What all of them share, a tensor without axes, stays as it is.

    >>> slice_states((torch.arange(4), torch.tensor(7)), slice(1, 3))
    (tensor([1, 2]), tensor(7))

    Chapter: 10. Inverse: `together`.
    """
    return map_state(lambda x: x[rows] if x.ndim else x, state)


def together(states: Sequence[Any]) -> Any:
    """The state of all sequences, from those of some each.

    >>> together([(torch.arange(2), torch.tensor(7)), (torch.arange(3), torch.tensor(7))])
    (tensor([0, 1, 0, 1, 2]), tensor(7))

    Chapter: 10. Inverse: `slice_states`.
    """
    return map_state(lambda *parts: torch.cat(parts) if parts[0].ndim else parts[0], *states)
