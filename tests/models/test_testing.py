"""The check for models of one's own finds each way in which they may fail to agree."""

import pytest
import torch
from torch import nn

from sashimi_lib.models.blocks import SequenceModel
from sashimi_lib.models.testing import check_sequence_model
from tests.cases import CAUSAL


class Mean(SequenceModel):
    """A leaky mean of the past, as it should be."""

    def __init__(self):
        super().__init__()
        self.keep = nn.Parameter(torch.tensor(0.5))

    def initial_state(self, batch_size):
        return self.keep.new_zeros(batch_size, 2)

    def forward(self, x, state=None):
        y, now = [], self.initial_state(len(x)) if state is None else state
        for x_t in x.unbind(1):
            y_t, now = Mean.step(self, x_t, now)
            y.append(y_t)
        return torch.stack(y, dim=1), None if state is None else now

    def step(self, x_t, state):
        state = self.keep * state + x_t
        return state, state


class ForgetsPieces(Mean):
    def forward(self, x, state=None):
        return super().forward(x)[0], state


class StepsWithoutState(Mean):
    def step(self, x_t, state):
        return super().step(x_t, 0 * state)


class EndsElsewhere(Mean):
    def step(self, x_t, state):
        y, state = super().step(x_t, state)
        return y, state + 1e-3 if bool((x_t > 2).all()) else state


class StartsFromOne(Mean):
    def forward(self, x, state=None):
        return super().forward(x, torch.ones(len(x), 2, dtype=x.dtype) if state is None else state)


@pytest.mark.parametrize(
    ("model", "way"),
    [
        (ForgetsPieces, "in pieces of 1"),
        (StepsWithoutState, "step by step"),
        (EndsElsewhere, "step by step"),
        (StartsFromOne, "without a state"),
    ],
)
def test_what_differs_is_named(model, way):
    x = torch.randn(2, 12, 2)
    x[:, -1] = 3
    check_sequence_model(Mean(), x)
    with pytest.raises(AssertionError, match=f"^{way}: "):
        check_sequence_model(model(), x)


@pytest.mark.parametrize("name", ["SaShiMi", "isotropic S4", "WaveNet", "SampleRNN", "hourglass"])
def test_the_library_s_own_pass(name):
    case = CAUSAL[name]
    check_sequence_model(case.make(), case.noise(torch.float32))
