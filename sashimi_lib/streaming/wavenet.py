"""WaveNet's compiled sample loop: gated layers with queues, one product for all skips, the head (chapter 7).

All layers have the same shape, so their weights are stacked along a leading axis; their queues differ in
length, and are concatenated.
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
    device_function,
    jit,
    pack_dense,
    pack_linear,
    pack_matrix,
    pad_axis,
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


class PackedLayers(NamedTuple):
    """The weights of all layers, each matrix from `pack_dense`, and the offsets of their queues.

    ``gates`` maps [x_{t-d}, x_t] to [filter, gate]; each of the four parts is padded to `padded_size`.
    """

    gates: np.ndarray  # (layers, bands, 2 padded inputs, 16)
    residual: np.ndarray  # (layers, bands, padded inputs, 16)
    offsets: np.ndarray  # (layers + 1,)


class QueueState(NamedTuple):
    """The queues of all layers, concatenated. Each is a ring buffer of d samples, d the dilation: the oldest
    is at ``phase % d``, where the next one is written."""

    queues: np.ndarray  # (batch, sum of dilations, padded d_residual)
    phase: np.ndarray  # (batch,): the number of samples so far


class WaveNetLoop(CompiledLoop):
    """A compiled loop of a WaveNet, its embedding and its head.

    The embedding and the first linear map are multiplied into one table, with a vector for each code.
    """

    def __init__(self, model: AudioLM) -> None:
        net = model.backbone
        assert isinstance(net, WaveNet)
        self.d_residual, self.dilations = net.config.d_residual, net.config.dilations
        self.offsets, self.dtype = np.cumsum([0, *self.dilations]), net.start.weight.dtype
        head = pack_head(model.head)
        table = pack_embedding(model.embedding) @ to_float32_array(net.start.weight).T
        self.n_codes, self.levels = len(table), head.levels
        gated = [layer for layer in net.layers if isinstance(layer, GatedLayer)]
        no_bias = np.zeros(padded_size(net.config.d_skip), np.float32)
        skip = PackedLinear(pack_matrix(_pad_parts(net.skip, 1, len(gated))), no_bias)
        end = tuple(pack_linear(part) for part in net.end if isinstance(part, nn.Linear))
        self.weights = pack_contiguous((table, _pack_layers(gated, self.offsets), skip, end, head))

    def pack_state(self, state: State) -> QueueState:
        """Return the queues of all layers, each from the oldest sample to the newest, in one array."""
        queues = torch.stack([x for queue in state for x in queue], dim=1)
        return pack_contiguous(
            QueueState(pad_axis(to_float32_array(queues), 2), np.zeros(len(queues), np.int64))
        )

    def unpack_state(self, state: QueueState) -> State:
        """Return the queue of each layer as a tuple of samples, from the oldest to the newest."""
        order = [
            first + (state.phase[0] + np.arange(dilation)) % dilation
            for first, dilation in zip(self.offsets[:-1], self.dilations, strict=True)
        ]
        queues = torch.from_numpy(state.queues[:, np.concatenate(order), : self.d_residual]).to(self.dtype)
        return tuple(queue.unbind(1) for queue in queues.split(self.dilations, dim=1))

    def run(self, codes: np.ndarray, state: QueueState, request: SamplingRequest) -> bool:
        """Fill ``codes`` after the first sample, which is the input."""
        return _loop(codes, state, request, *self.weights)


def _pack_layers(layers: list[GatedLayer], offsets: np.ndarray) -> PackedLayers:
    return PackedLayers(
        np.stack([pack_dense(_pad_parts(layer.gates, 2, 2)) for layer in layers]),
        np.stack([pack_dense(to_float32_array(layer.residual.weight)) for layer in layers]),
        offsets,
    )


def _pad_parts(linear: nn.Linear, outputs: int, inputs: int) -> np.ndarray:
    """Return the weight of a map from ``inputs`` concatenated vectors to ``outputs``, each of them padded."""
    weight = to_float32_array(linear.weight)
    weight = weight.reshape(outputs, weight.shape[0] // outputs, inputs, weight.shape[1] // inputs)
    weight = pad_axis(pad_axis(weight, 1), 3)
    return weight.reshape(outputs * weight.shape[1], -1)


@jit
@no_type_check
def _loop(codes, state, request, table, layers, skip, end, head):
    batch, n = len(codes), len(layers.gates)
    x = np.zeros((batch, 2, layers.residual.shape[1] * LANES), np.float32)  # x_{t-d}, x_t
    gates = np.zeros((batch, 2, layers.residual.shape[2]), np.float32)
    z = np.zeros((batch, n, layers.residual.shape[2]), np.float32)
    total = np.zeros((batch, len(skip.bias)), np.float32)
    hidden = np.zeros((batch, len(end[0].bias)), np.float32)
    y = np.zeros((batch, len(end[1].bias)), np.float32)
    buffers = head_workspace(batch, head)
    for t in range(codes.shape[1] - 1):
        embed(codes, t, table, x[:, 1])
        for i in range(n):
            rotate_queue(state, layers.offsets[i], layers.offsets[i + 1], x)
            gates[:] = 0
            add_product(layers.gates[i], x.reshape(batch, -1), gates.reshape(batch, -1))
            for b in range(batch):
                for h in range(z.shape[2]):
                    z[b, i, h] = tanh(gates[b, 0, h]) * sigmoid(gates[b, 1, h])
            add_product(layers.residual[i], z[:, i], x[:, 1])
        state.phase[:] += 1
        affine(skip, z.reshape(batch, -1), total)
        relu(total)
        affine(end[0], total, hidden)
        relu(hidden)
        affine(end[1], hidden, y)
        if not sample_codes(head, y, request, t, buffers, codes):
            return False
    return True


@device_function
@no_type_check
def rotate_queue(state: QueueState, first: int, last: int, x: np.ndarray) -> None:
    """Read the oldest sample of a queue into ``x[:, 0]``, and overwrite it with the newest, ``x[:, 1]``."""
    for b in range(len(x)):
        oldest = state.queues[b, first + state.phase[b] % (last - first)]
        for h in range(len(oldest)):
            x[b, 0, h] = oldest[h]
            oldest[h] = x[b, 1, h]
