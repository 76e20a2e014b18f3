"""What a sample costs a model at the least: multiply-adds, and numbers that are read and written.

Of a sample on the average: a tier that steps at every sixteenth sample counts a sixteenth. Norms, gates,
activations and draws are left out, and so are the places of what is not zero in a sparse matrix.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from sashimi_lib.models import WaveRNN
from sashimi_lib.models.pooling import Hourglass
from sashimi_lib.models.samplernn import FrameTier
from sashimi_lib.models.wavenet import GatedLayer
from sashimi_lib.ssm.s4 import StateSpace

BYTES = 4  # of a number, in single precision


class Cost(NamedTuple):
    """Multiply-adds, weights read, and numbers of the state read or written, a step; and how many numbers
    weights and state are in all, whether or not a step comes by them."""

    multiply_adds: float = 0.0
    weights: float = 0.0
    state: float = 0.0
    resident: int = 0

    def bytes_a_step(self, batch: int = 1) -> float:
        """Of a whole batch, which reads the weights once."""
        return BYTES * (self.weights + batch * self.state)


def cost(model: nn.Module) -> Cost:
    """Of one sample of one sequence, on the average.

    >>> cost(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)))
    Cost(multiply_adds=25.0, weights=32.0, state=0.0, resident=32)
    """
    total = Cost()
    for module, rate in at_rates(model):
        *step, resident = own(module)
        averages = (so_far + rate * x for so_far, x in zip(total, step, strict=False))
        total = Cost(*averages, total.resident + resident)
    return total


def at_rates(module: nn.Module, rate: float = 1.0) -> Iterator[tuple[nn.Module, float]]:
    """A module and all that it is made of, each with how many steps a sample it takes."""
    match module:
        case Hourglass():
            rate /= module.down.pool
        case FrameTier():
            rate /= module.span
    yield module, rate
    for child in module.children():
        yield from at_rates(child, rate)


def own(module: nn.Module) -> Cost:
    """Of one step of a module, without that of its parts."""
    match module:
        case nn.Linear() | nn.Conv1d():
            weights = int(module.weight.count_nonzero())
            read = weights + (0 if module.bias is None else len(module.bias))
            return Cost(weights, read, 0, read)
        case nn.GRU():
            weights = sum(x.numel() for name, x in module.named_parameters() if name.startswith("weight"))
            read, state = sum(x.numel() for x in module.parameters()), module.num_layers * module.hidden_size
            return Cost(weights, read, 2 * state, read + state)
        case nn.Embedding():  # a row of its table
            return Cost(0, module.embedding_dim, 0, module.weight.numel())
        case StateSpace():
            return of_states(module)
        case GatedLayer():  # the oldest entry of the queue is read, the newest written
            width = module.residual.out_features
            return Cost(0, 0, 2 * width, module.dilation * width)
        case Hourglass():  # a frame is gathered and another given out, each written and read
            frame = module.down.pool * module.d_fine
            return Cost(0, 0, 4 * frame, 2 * frame)
        case FrameTier():
            outputs = module.n_outputs * module.h0.shape[-1]
            return Cost(0, 0, 2 * outputs, outputs)
        case WaveRNN():
            bias, state = module.bias.numel(), module.config.d_hidden
            return Cost(0, bias, 2 * state, bias + state)
    return Cost()


def of_states(space: StateSpace) -> Cost:
    """Of ``x <- lambda x + left (right . x) + B u`` and ``y = C . x``, where x has M complex numbers for each
    channel: 4 M real multiply-adds for lambda and 2 M for each vector, of which left and right come once for
    each rank.

    lambda and C are each channel's own. B, p and q, of which left and right can be made, are read once where
    all channels share them.
    """
    (H, M), rank, copies = space.C.shape[:2], space.system().p.shape[-1], len(space.Lambda)
    weights = 4 * M * H + copies * 2 * M * (1 + 2 * rank) + 2 * H  # the last two: dt and D
    return Cost(H * M * (8 + 4 * rank), weights, 4 * M * H, weights + 2 * M * H)
