"""Embeddings and heads of compiled loops (chapters 7 and 8)."""

from typing import Any, NamedTuple, no_type_check

import numpy as np
from numba.extending import overload
from torch import nn

from sashimi_lib.models.backbone import PairEmbedding
from sashimi_lib.models.heads import DualSoftmax, Head, Softmax
from sashimi_lib.streaming.compiled_ops import (
    JIT_OPTIONS,
    PackedLinear,
    SamplingRequest,
    affine,
    device_function,
    emit_token,
    pack_linear,
    padded_size,
    to_float32_array,
)


class PackedSoftmax(NamedTuple):
    """The weights of `Softmax`: one linear layer, no hidden one."""

    layer: PackedLinear
    levels: int
    hidden: int


class PackedDualSoftmax(NamedTuple):
    """The weights of `DualSoftmax`; the rows of ``E`` embed the coarse code for the fine one."""

    O1: PackedLinear
    O2: PackedLinear
    O3: PackedLinear
    O4: PackedLinear
    E: np.ndarray
    levels: int
    hidden: int


def pack_head(head: Head) -> PackedSoftmax | PackedDualSoftmax:
    """Return the weights of a head. Raises ValueError for a head that has no compiled form."""
    if isinstance(head, Softmax):
        return PackedSoftmax(pack_linear(head), head.out_features, 0)
    if isinstance(head, DualSoftmax):
        O1, O2, O3, O4 = map(pack_linear, (head.O1, head.O2, head.O3, head.O4))
        return PackedDualSoftmax(O1, O2, O3, O4, to_float32_array(head.E.weight), *head.O4.weight.shape)
    raise ValueError(f"model must have a Softmax or DualSoftmax head, got {type(head).__name__}")


def pack_embedding(embedding: nn.Module) -> np.ndarray:
    """Return the embedding table, (n_codes, levels, d_model). Raises ValueError if there is none."""
    if isinstance(embedding, nn.Embedding):
        return to_float32_array(embedding.weight)[None]
    if isinstance(embedding, PairEmbedding):
        return np.stack([to_float32_array(embedding.coarse.weight), to_float32_array(embedding.fine.weight)])
    raise ValueError(f"model must have an embedding table, got {type(embedding).__name__}")


@device_function
@no_type_check
def embed(codes: np.ndarray, t: int, table: np.ndarray, x: np.ndarray) -> None:
    """Write the sum of the embeddings of ``codes[:, t]`` to the first columns of ``x``."""
    for b in range(len(codes)):
        for h in range(table.shape[2]):
            x[b, h] = table[0, codes[b, t, 0], h]
        for k in range(1, codes.shape[2]):
            for h in range(table.shape[2]):
                x[b, h] += table[k, codes[b, t, k], h]


@device_function
@no_type_check
def head_workspace(batch: int, head: PackedSoftmax | PackedDualSoftmax) -> tuple[np.ndarray, np.ndarray]:
    """Return the buffers of `sample_codes`: a hidden layer and logits."""
    hidden = np.zeros((batch, padded_size(head.hidden)), np.float32)
    return hidden, np.zeros((batch, padded_size(head.levels)), np.float32)


def sample_codes(
    head: PackedSoftmax | PackedDualSoftmax,
    y: np.ndarray,
    request: SamplingRequest,
    t: int,
    workspace: Any,
    codes: np.ndarray,
) -> bool:
    """Write the one or two codes of sample t, given features ``y``, as ``codes[:, t + 1]``.

    Returns whether all logits were finite. Called by compiled code.
    """
    raise NotImplementedError


@overload(sample_codes, jit_options=JIT_OPTIONS)
@no_type_check
def _sample_codes(head, y, request, t, workspace, codes):
    return _sample_softmax if head.instance_class is PackedSoftmax else _sample_dual_softmax


@no_type_check
def _sample_softmax(head, y, request, t, workspace, codes):
    _, logits = workspace
    affine(head.layer, y, logits)
    return emit_token(request, t, 0, logits, head.levels, codes)


@no_type_check
def _sample_dual_softmax(head, y, request, t, workspace, codes):
    hidden, logits = workspace
    affine(head.O1, y, hidden)
    relu(hidden)
    affine(head.O2, hidden, logits)
    if not emit_token(request, t, 0, logits, head.levels, codes):
        return False
    affine(head.O3, y, hidden)
    for b in range(len(y)):
        for i in range(head.E.shape[1]):
            hidden[b, i] += head.E[codes[b, t + 1, 0], i]
    relu(hidden)
    affine(head.O4, hidden, logits)
    return emit_token(request, t, 1, logits, head.levels, codes)


@device_function
@no_type_check
def relu(x: np.ndarray) -> None:
    """Apply ``max(x, 0)`` in place."""
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            x[b, i] = max(x[b, i], np.float32(0))
