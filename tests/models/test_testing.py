"""`check_sequence_model` finds each kind of disagreement between the modes of a model."""

import pytest
import torch
from torch import nn

from sashimi_lib.models.blocks import SequenceModel
from sashimi_lib.models.testing import check_sequence_model
from tests.cases import CAUSAL


class Mean(SequenceModel):
    """A correct model: a leaky mean of the inputs."""

    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.5))

    def initial_state(self, batch_size):
        return self.decay.new_zeros(batch_size, 2)

    def forward(self, x, state=None):
        y, last = [], self.initial_state(len(x)) if state is None else state
        for x_t in x.unbind(1):
            y_t, last = Mean.step(self, x_t, last)
            y.append(y_t)
        return torch.stack(y, dim=1), None if state is None else last

    def step(self, x_t, state):
        state = self.decay * state + x_t
        return state, state


class IgnoresState(Mean):
    def forward(self, x, state=None):
        return super().forward(x)[0], state


class StepsWithoutState(Mean):
    def step(self, x_t, state):
        return super().step(x_t, 0 * state)


class WrongFinalState(Mean):
    def step(self, x_t, state):
        y, state = super().step(x_t, state)
        return y, state + 1e-3 if bool((x_t > 2).all()) else state


class WrongInitialState(Mean):
    def forward(self, x, state=None):
        return super().forward(x, torch.ones(len(x), 2, dtype=x.dtype) if state is None else state)


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        (IgnoresState, "in chunks of 1"),
        (StepsWithoutState, "step by step"),
        (WrongFinalState, "step by step"),
        (WrongInitialState, "without a state"),
    ],
)
def test_the_mode_that_differs_is_named(model, mode):
    x = torch.randn(2, 12, 2)
    x[:, -1] = 3
    check_sequence_model(Mean(), x)
    with pytest.raises(AssertionError, match=f"^{mode}: "):
        check_sequence_model(model(), x)


@pytest.mark.parametrize("name", ["SaShiMi", "isotropic S4", "WaveNet", "SampleRNN", "hourglass"])
def test_models_of_the_library_pass(name):
    case = CAUSAL[name]
    check_sequence_model(case.make(), case.noise(torch.float32))
