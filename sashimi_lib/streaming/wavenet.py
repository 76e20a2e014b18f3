"""WaveNet's sample loop, compiled: every layer and its queue, all skips as one product, the draw (chapter 7).

The layers have one shape, so their weights lie side by side, in arrays with one axis more; their queues have
not, and lie one after the other.
"""

from typing import NamedTuple, no_type_check

import numpy as np
import torch
from torch import nn

from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.blocks import State
from sashimi_lib.models.wavenet import GatedLayer, WaveNet
from sashimi_lib.streaming.compiled_loop import CompiledLoop, pack_contiguous
from sashimi_lib.streaming.compiled_ops import (
    PackedLinear,
    SamplingRequest,
    add_product,
    affine,
    dense,
    device_function,
    jit,
    pack,
    pack_linear,
    padded,
    padded_size,
    sigmoid,
    tanh,
    to_float32_array,
)
from sashimi_lib.streaming.packed_heads import (
    embed,
    head_workspace,
    pack_embedding,
    pack_head,
    relu,
    sample_codes,
)
from sashimi_lib.streaming.vectors import LANES


class Layers(NamedTuple):
    """The weights of all layers, as `dense` lays each matrix out, and where their queues begin and end.

    The gates hear [x_{t-d}, x_t] and give [filter, gate]: each of the four has room of its own.
    """

    gates: np.ndarray  # (layers, bands, 2 room, 16)
    residual: np.ndarray  # (layers, bands, room, 16)
    edges: np.ndarray  # (layers + 1,)


class QueueState(NamedTuple):
    """The queues of all layers, one after the other, each a ring: d samples, of which the oldest lies at
    ``phase % d``, where the next one will be written."""

    queues: np.ndarray  # (batch, sum of dilations, room)
    phase: np.ndarray  # (batch,): how many samples it has been


class WaveNetLoop(CompiledLoop):
    """The weights of a WaveNet, its embedding and its head, packed once.

    The map of codes into the first layer is multiplied out: a vector for each code.
    """

    def __init__(self, model: AudioLM) -> None:
        net = model.backbone
        assert isinstance(net, WaveNet)
        self.d_residual, self.dilations = net.config.d_residual, net.config.dilations
        self.edges, self.dtype = np.cumsum([0, *self.dilations]), net.start.weight.dtype
        head, table = (
            pack_head(model.head),
            pack_embedding(model.embedding) @ to_float32_array(net.start.weight).T,
        )
        self.codes, self.levels = len(table), head.levels
        gated = [layer for layer in net.layers if isinstance(layer, GatedLayer)]
        layers = Layers(
            np.stack([dense(_in_parts(layer.gates, 2, 2)) for layer in gated]),
            np.stack([dense(to_float32_array(layer.residual.weight)) for layer in gated]),
            self.edges,
        )
        no_bias = np.zeros(padded_size(net.config.d_skip), np.float32)
        skip = PackedLinear(pack(_in_parts(net.skip, 1, len(gated))), no_bias)
        end = tuple(pack_linear(part) for part in net.end if isinstance(part, nn.Linear))
        self.tables = pack_contiguous((table, layers, skip, end, head))

    def begin(self, state: State) -> QueueState:
        """The queues of all layers, oldest first, in one array."""
        queues = torch.stack([x for queue in state for x in queue], dim=1)
        return pack_contiguous(
            QueueState(padded(to_float32_array(queues), 2), np.zeros(len(queues), np.int64))
        )

    def end(self, memory: QueueState) -> State:
        """For each layer a tuple of what it can still hear, oldest first."""
        order = [
            first + (memory.phase[0] + np.arange(dilation)) % dilation
            for first, dilation in zip(self.edges[:-1], self.dilations, strict=True)
        ]
        queues = torch.from_numpy(memory.queues[:, np.concatenate(order), : self.d_residual]).to(self.dtype)
        return tuple(queue.unbind(1) for queue in queues.split(self.dilations, dim=1))

    def run(self, codes: np.ndarray, memory: QueueState, request: SamplingRequest) -> bool:
        """Write codes after the first, which are there already."""
        return _loop(codes, memory, request, *self.tables)


def _in_parts(linear: nn.Linear, outputs: int, inputs: int) -> np.ndarray:
    """The weight of a map between vectors that are several side by side, with room for each of them."""
    weight = to_float32_array(linear.weight)
    weight = weight.reshape(outputs, weight.shape[0] // outputs, inputs, weight.shape[1] // inputs)
    weight = padded(padded(weight, 1), 3)
    return weight.reshape(outputs * weight.shape[1], -1)


@jit
@no_type_check
def _loop(codes, memory, request, table, layers, skip, end, head):
    batch, n = len(codes), len(layers.gates)
    x = np.zeros((batch, 2, layers.residual.shape[1] * LANES), np.float32)  # x_{t-d}, x_t
    gates = np.zeros((batch, 2, layers.residual.shape[2]), np.float32)
    z = np.zeros((batch, n, layers.residual.shape[2]), np.float32)
    total = np.zeros((batch, len(skip.bias)), np.float32)
    hidden = np.zeros((batch, len(end[0].bias)), np.float32)
    y = np.zeros((batch, len(end[1].bias)), np.float32)
    workspace = head_workspace(batch, head)
    for t in range(codes.shape[1] - 1):
        embed(codes, t, table, x[:, 1])
        for i in range(n):
            rotate_queue(memory, layers.edges[i], layers.edges[i + 1], x)
            gates[:] = 0
            add_product(layers.gates[i], x.reshape(batch, -1), gates.reshape(batch, -1))
            for b in range(batch):
                for h in range(z.shape[2]):
                    z[b, i, h] = tanh(gates[b, 0, h]) * sigmoid(gates[b, 1, h])
            add_product(layers.residual[i], z[:, i], x[:, 1])
        memory.phase[:] += 1
        affine(skip, z.reshape(batch, -1), total)
        relu(total)
        affine(end[0], total, hidden)
        relu(hidden)
        affine(end[1], hidden, y)
        if not sample_codes(head, y, request, t, workspace, codes):
            return False
    return True


@device_function
@no_type_check
def rotate_queue(memory, first, last, x):
    """The oldest sample of a queue, as ``x[:, 0]``, gives its place to the newest, ``x[:, 1]``."""
    for b in range(len(x)):
        oldest = memory.queues[b, first + memory.phase[b] % (last - first)]
        for h in range(len(oldest)):
            x[b, 0, h] = oldest[h]
            oldest[h] = x[b, 1, h]
