"""Nested states: map over their tensors, slice and concatenate the batch axis, flatten to a list."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

State = Any  # a tensor, or a nested tuple of tensors of fixed shape


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

    Chapter: 10. Inverse: `concat_states`.
    """
    return map_state(lambda x: x[rows] if x.ndim else x, state)


def concat_states(states: Sequence[Any]) -> Any:
    """The state of all sequences, from those of some each.

    >>> concat_states([(torch.arange(2), torch.tensor(7)), (torch.arange(3), torch.tensor(7))])
    (tensor([0, 1, 0, 1, 2]), tensor(7))

    Chapter: 10. Inverse: `slice_states`.
    """
    return map_state(lambda *parts: torch.cat(parts) if parts[0].ndim else parts[0], *states)


def flatten_state(state: State) -> list[Tensor]:
    """The tensors of a state, in their order.

    >>> import torch
    >>> flatten_state(((torch.tensor(1),), (), torch.tensor(2)))
    [tensor(1), tensor(2)]

    Chapter: 7. Inverse: `unflatten_state`.
    """
    return [state] if isinstance(state, Tensor) else [x for part in state for x in flatten_state(part)]


def unflatten_state(tensors: Iterable[Tensor], like: State) -> State:
    """The state that is made of some tensors as another state is made of its own.

    >>> import torch
    >>> unflatten_state([torch.tensor(3), torch.tensor(4)], like=((torch.tensor(1),), (), torch.tensor(2)))
    ((tensor(3),), (), tensor(4))

    Chapter: 7. Inverse: `flatten_state`.
    """
    left = iter(tensors)

    def build(part: State) -> State:
        return next(left) if isinstance(part, Tensor) else tuple(build(inner) for inner in part)

    return build(like)
