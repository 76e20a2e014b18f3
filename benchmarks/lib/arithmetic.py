"""The minimal cost of one generated sample: multiply-adds, and values read and written.

Costs are averages per sample: a tier that steps at every sixteenth sample counts a sixteenth. Norms, gates,
activations and sampling are not counted, nor are the indices of sparse matrices.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from sashimi_lib.models import WaveRNN
from sashimi_lib.models.pooling import Hourglass
from sashimi_lib.models.samplernn import FrameTier
from sashimi_lib.models.wavenet import GatedLayer
from sashimi_lib.ssm.s4 import StateSpace

BYTES = 4  # per value, in single precision


class Cost(NamedTuple):
    """Per step: multiply-adds, weights read, and state values read or written. ``resident`` counts all values
    of weights and state, whether or not a step touches them."""

    multiply_adds: float = 0.0
    weights: float = 0.0
    state: float = 0.0
    resident: int = 0


def cost(model: nn.Module) -> Cost:
    """The average cost of one sample of one sequence.

    >>> cost(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)))
    Cost(multiply_adds=25.0, weights=32.0, state=0.0, resident=32)
    """
    total = Cost()
    for module, rate in modules_with_rates(model):
        *step, resident = module_cost(module)
        averages = (so_far + rate * x for so_far, x in zip(total, step, strict=False))
        total = Cost(*averages, total.resident + resident)
    return total


def modules_with_rates(module: nn.Module, rate: float = 1.0) -> Iterator[tuple[nn.Module, float]]:
    """A module and all its submodules, each with its number of steps per sample."""
    match module:
        case Hourglass():
            rate /= module.down.pool
        case FrameTier():
            rate /= module.span
    yield module, rate
    for child in module.children():
        yield from modules_with_rates(child, rate)


def module_cost(module: nn.Module) -> Cost:
    """The cost of one step of a module, without its submodules."""
    match module:
        case nn.Linear() | nn.Conv1d():
            weights = int(module.weight.count_nonzero())
            read = weights + (0 if module.bias is None else len(module.bias))
            return Cost(weights, read, 0, read)
        case nn.GRU():
            weights = sum(x.numel() for name, x in module.named_parameters() if name.startswith("weight"))
            read, state = sum(x.numel() for x in module.parameters()), module.num_layers * module.hidden_size
            return Cost(weights, read, 2 * state, read + state)
        case nn.Embedding():  # one row of the table
            return Cost(0, module.embedding_dim, 0, module.weight.numel())
        case StateSpace():
            return state_space_cost(module)
        case GatedLayer():  # reads the oldest entry of the queue, writes the newest
            width = module.residual.out_features
            return Cost(0, 0, 2 * width, module.dilation * width)
        case Hourglass():  # one input frame and one output frame, each written and read
            frame = module.down.pool * module.d_fine
            return Cost(0, 0, 4 * frame, 2 * frame)
        case FrameTier():
            output = module.n_outputs * module.h0.shape[-1]
            return Cost(0, 0, 2 * output, output)
        case WaveRNN():
            bias, state = module.bias.numel(), module.config.d_hidden
            return Cost(0, bias, 2 * state, bias + state)
    return Cost()


def state_space_cost(space: StateSpace) -> Cost:
    """The cost of ``x <- lambda x + left (right . x) + B u`` and ``y = C . x``.

    With M complex numbers a channel, lambda takes 4 M real multiply-adds, and each vector 2 M; left and right
    occur once for each rank. lambda and C belong to each channel. B, p and q, from which left and right can
    be computed, are read once where all channels share them.
    """
    (H, M), rank, copies = space.C.shape[:2], space.system().p.shape[-1], len(space.Lambda)
    weights = 4 * M * H + copies * 2 * M * (1 + 2 * rank) + 2 * H  # the last two: dt and D
    return Cost(H * M * (8 + 4 * rank), weights, 4 * M * H, weights + 2 * M * H)
