"""A check that the parallel and the recurrent computation of a sequence model agree."""

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
    """Check in float64 that a model gives the same outputs and the same final state for a whole sequence, for
    chunks of each of the ``sizes``, and step by step.

    The length of ``x`` must be a multiple of the model's ``frame``, where it has one.

    >>> from sashimi_lib.models import IsotropicConfig
    >>> check_sequence_model(IsotropicConfig(d_model=4, n_layers=1).build(), torch.randn(2, 20, 4))

    Raises AssertionError, naming the mode that differs and by how much.
    """
    model, x = copy.deepcopy(model).double().eval(), x.double()
    initial = model.initial_state(len(x))
    expected = model(x, initial)
    _compare("without a state", (model(x)[0], expected[1]), expected)
    for size in sizes:
        _compare(f"in chunks of {size}", _run_chunks(model, x.split(size, dim=1), initial), expected)
    _compare("step by step", _run_chunks(partial(_step, model), x.split(1, dim=1), initial), expected)


def _run_chunks(advance: Callable[..., Any], chunks: Iterable[Tensor], state: State) -> tuple[Tensor, State]:
    """Return the outputs of all chunks, concatenated, and the state after the last."""
    outputs = []
    for chunk in chunks:
        y, state = advance(chunk, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _step(model: SequenceModel, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a chunk of one sample by ``step``."""
    y, state = model.step(x[:, 0], state)
    return y[:, None], state


def _compare(mode: str, actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, msg=lambda message: f"{mode}: {message}")
