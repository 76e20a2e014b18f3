"""A model run in the other ways, to be compared with its whole pass; and how far apart two results are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.blocks import SequenceModel, State
from sashimi_lib.ssm.kernel_cache import cached_kernels


def by_steps(model: SequenceModel | AudioLM, x: Tensor, state: State = None) -> tuple[Tensor, State]:
    """Sample by sample, from a state or from silence: outputs, and the state after them."""
    state, y = model.initial_state(len(x)) if state is None else state, []
    with cached_kernels(model):
        for x_t in x.unbind(1):
            y_t, state = model.step(x_t, state)
            y.append(y_t)
    return torch.stack(y, dim=1), state


def in_pieces(
    model: SequenceModel | AudioLM, x: Tensor, sizes: int | Sequence[int], state: State = None
) -> tuple[Tensor, State]:
    """Piece by piece, from a state or from silence: outputs, and the state after them."""
    state, y = model.initial_state(len(x)) if state is None else state, []
    with cached_kernels(model):
        for piece in x.split(sizes, dim=1):
            y_piece, state = model(piece, state)
            y.append(y_piece)
    return torch.cat(y, dim=1), state


def error(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what was expected, computed in float64."""
    expected = expected.double()
    return float(torch.linalg.norm(actual.double() - expected) / torch.linalg.norm(expected))
