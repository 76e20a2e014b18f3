"""A check for sequence models of your own: whole, in pieces and step by step they compute the same."""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.models.blocks import SequenceModel, State


@torch.no_grad()
def check_sequence_model(
    model: SequenceModel, x: Float[Tensor, "batch length channels"], sizes: tuple[int, ...] = (1, 3, 7)
) -> None:
    """Check in float64 that a model gives the same outputs and the same last state for a whole sequence, for
    pieces of each of the ``sizes``, and step by step.

    The length of ``x`` must be a multiple of the model's ``frame``, where it has one.

    >>> from sashimi_lib.models import IsotropicConfig
    >>> check_sequence_model(IsotropicConfig(d_model=4, n_layers=1).build(), torch.randn(2, 20, 4))

    Raises AssertionError, saying which way differs and by how much.
    """
    model, x = copy.deepcopy(model).double().eval(), x.double()
    silence = model.initial_state(len(x))
    whole = model(x, silence)
    _compare("without a state", (model(x)[0], whole[1]), whole)
    for size in sizes:
        _compare(f"in pieces of {size}", _joined(model, x.split(size, dim=1), silence), whole)
    _compare("step by step", _joined(partial(_step, model), x.split(1, dim=1), silence), whole)


def _joined(advance: Callable[..., Any], pieces: Iterable[Tensor], state: State) -> tuple[Tensor, State]:
    """The outputs of all pieces, one after the other, and the state after the last."""
    outputs = []
    for piece in pieces:
        y, state = advance(piece, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _step(model: SequenceModel, x: Tensor, state: State) -> tuple[Tensor, State]:
    """A piece of one sample, by the step."""
    y, state = model.step(x[:, 0], state)
    return y[:, None], state


def _compare(way: str, actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, msg=lambda message: f"{way}: {message}")
