"""States in tensors with fixed addresses, for the CUDA graphs of `sashimi_lib.streaming.graph`."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sashimi_lib.models.blocks import State
from sashimi_lib.models.states import flatten_state, unflatten_state


class StaticState(ABC):
    """A model's state in tensors that are allocated once and updated in place."""

    @abstractmethod
    def load(self, state: State) -> None:
        """Copy a model's state into the static tensors."""

    @abstractmethod
    def copy(self) -> State:
        """Return a copy of the current state, as the model has it."""

    @abstractmethod
    def read(self) -> State:
        """Return the part of the state that is an input of the model's step."""

    @abstractmethod
    def write(self, state: State) -> None:
        """Store what the model's step returned for the input from `read`."""

    def host_counters(self) -> list[Tensor]:
        """Return the scalar tensors on the CPU, which determine the kernels that a step launches."""
        return []


class StaticBuffers(StaticState):
    """A static buffer for each tensor of any state."""

    def __init__(self, state: State) -> None:
        self.state = clone_state(state)
        self.phases = [tensor for tensor in flatten_state(self.state) if tensor.ndim == 0]

    def load(self, state: State) -> None:
        """Copy a state into the buffers."""
        self.write(state)

    def copy(self) -> State:
        """Return a copy of the state."""
        return clone_state(self.state)

    def read(self) -> State:
        """Return the whole state."""
        return self.state

    def write(self, state: State) -> None:
        """Copy the tensors that are new; a slow tier that did not step returns the buffers themselves."""
        for buffer, tensor in zip(flatten_state(self.state), flatten_state(state), strict=True):
            if tensor is not buffer:
                buffer.copy_(tensor)

    def host_counters(self) -> list[Tensor]:
        """Return the phases of the frames."""
        return self.phases


class RingBuffers(StaticState):
    """Ring buffers for a state of queues (`Backbone.state_is_queues`), all of them in one tensor.

    A step replaces the oldest sample of each queue by the newest, and moves nothing else. A counter on the
    GPU gives the positions. The state of a WaveNet with ten layers in each of four stacks is 4,092 tensors,
    which a step would otherwise copy.
    """

    def __init__(self, state: State) -> None:
        self.ring = torch.stack(flatten_state(state))  # (sum of the lengths, batch, d_residual)
        lengths = [len(queue) for queue in state]
        self.length = torch.tensor(lengths, device=self.ring.device)
        self.start = self.length.cumsum(0) - self.length
        self.time = torch.zeros(1, dtype=torch.long, device=self.ring.device)

    def load(self, state: State) -> None:
        """Copy a state, so that each queue starts where its ring buffer does."""
        torch.stack(flatten_state(state), out=self.ring)
        self.time.zero_()

    def copy(self) -> State:
        """Return a copy of the queues, each from the oldest sample to the newest."""
        rings, time = self.ring.clone().split(self.length.tolist()), int(self.time)
        return tuple(ring.roll(-(time % len(ring)), 0).unbind() for ring in rings)

    def read(self) -> State:
        """Return the oldest sample of each queue, the only one that a step uses."""
        self.slots = self.start + self.time % self.length
        return tuple((oldest,) for oldest in self.ring.index_select(0, self.slots).unbind())

    def write(self, state: State) -> None:
        """Overwrite the oldest sample of each queue with the newest."""
        self.ring.index_copy_(0, self.slots, torch.stack(flatten_state(state)))
        self.time.add_(1)


def clone_state(state: State) -> State:
    """Return a contiguous copy of a state or a cache."""
    return unflatten_state(
        (x.clone(memory_format=torch.contiguous_format) for x in flatten_state(state)), state
    )
