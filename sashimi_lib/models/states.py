"""Nested states: map over their tensors, slice and concatenate along the batch axis, flatten to a list."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

State = Any  # a tensor, or a nested tuple of tensors of fixed shape


def map_state(fn: Any, *states: Any) -> Any:
    """Apply ``fn`` to each tensor of a state, or to corresponding tensors of several states of one structure;
    return the results in the same nested tuples.

    >>> map_state(lambda a, b: a + b, (torch.tensor(1), ()), (torch.tensor(2), ()))
    (tensor(3), ())

    Chapter: 7.
    """
    if isinstance(states[0], Tensor):
        return fn(*states)
    return tuple(map_state(fn, *parts) for parts in zip(*states, strict=True))


def slice_states(state: Any, rows: slice) -> Any:
    """Slice a state along the batch axis. A tensor without axes, which all sequences share, stays as it is.

    >>> slice_states((torch.arange(4), torch.tensor(7)), slice(1, 3))
    (tensor([1, 2]), tensor(7))

    Chapter: 10. Inverse: `concat_states`.
    """
    return map_state(lambda x: x[rows] if x.ndim else x, state)


def concat_states(states: Sequence[Any]) -> Any:
    """Concatenate states along the batch axis.

    >>> concat_states([(torch.arange(2), torch.tensor(7)), (torch.arange(3), torch.tensor(7))])
    (tensor([0, 1, 0, 1, 2]), tensor(7))

    Chapter: 10. Inverse: `slice_states`.
    """
    return map_state(lambda *parts: torch.cat(parts) if parts[0].ndim else parts[0], *states)


def flatten_state(state: State) -> list[Tensor]:
    """Return the tensors of a state as a list, in order.

    >>> import torch
    >>> flatten_state(((torch.tensor(1),), (), torch.tensor(2)))
    [tensor(1), tensor(2)]

    Chapter: 7. Inverse: `unflatten_state`.
    """
    return [state] if isinstance(state, Tensor) else [x for part in state for x in flatten_state(part)]


def unflatten_state(tensors: Iterable[Tensor], like: State) -> State:
    """Return a state with the structure of ``like`` from a list of tensors.

    >>> import torch
    >>> unflatten_state([torch.tensor(3), torch.tensor(4)], like=((torch.tensor(1),), (), torch.tensor(2)))
    ((tensor(3),), (), tensor(4))

    Chapter: 7. Inverse: `flatten_state`.
    """
    remaining = iter(tensors)

    def build(part: State) -> State:
        return next(remaining) if isinstance(part, Tensor) else tuple(build(inner) for inner in part)

    return build(like)
