"""States as lists of tensors: to be kept in a file, or where a CUDA graph finds them."""

from collections.abc import Iterable

from torch import Tensor

from sashimi_lib.models.blocks import State


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
