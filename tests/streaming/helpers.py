"""Run a model by steps or in chunks, to be compared with its parallel pass; relative error of a result."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.blocks import SequenceModel, State
from sashimi_lib.ssm.kernel_cache import cached_kernels


def by_steps(model: SequenceModel | AudioLM, x: Tensor, state: State = None) -> tuple[Tensor, State]:
    """Run sample by sample from ``state``, or from the initial one: outputs, and the final state."""
    state, y = model.initial_state(len(x)) if state is None else state, []
    with cached_kernels(model):
        for x_t in x.unbind(1):
            y_t, state = model.step(x_t, state)
            y.append(y_t)
    return torch.stack(y, dim=1), state


def in_chunks(
    model: SequenceModel | AudioLM, x: Tensor, sizes: int | Sequence[int], state: State = None
) -> tuple[Tensor, State]:
    """Run chunk by chunk from ``state``, or from the initial one: outputs, and the final state."""
    state, y = model.initial_state(len(x)) if state is None else state, []
    with cached_kernels(model):
        for chunk in x.split(sizes, dim=1):
            y_chunk, state = model(chunk, state)
            y.append(y_chunk)
    return torch.cat(y, dim=1), state


def error(actual: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference relative to that of ``expected``, computed in float64."""
    expected = expected.double()
    return float(torch.linalg.norm(actual.double() - expected) / torch.linalg.norm(expected))
