"""Codes to features and features to codes, as compiled loops want them (chapters 7 and 8)."""

from typing import NamedTuple, no_type_check

import numpy as np
from numba.extending import overload
from torch import nn

from sashimi_lib.models.backbone import PairEmbedding
from sashimi_lib.models.heads import DualSoftmax, Head, Softmax
from sashimi_lib.streaming.kernels import HOW, Layer, affine, decide, inner, numbers, pack_layer, room


class One(NamedTuple):
    """A logit for each level, and no hidden layer."""

    layer: Layer
    levels: int
    hidden: int


class Two(NamedTuple):
    """Logits of the coarse code, and of the fine one, which hears the coarse one by a vector of its own."""

    O1: Layer
    O2: Layer
    O3: Layer
    O4: Layer
    E: np.ndarray
    levels: int
    hidden: int


def pack_head(head: Head) -> One | Two:
    """The weights of a head. Raises ValueError for one that has no compiled form."""
    if isinstance(head, Softmax):
        return One(pack_layer(head), head.out_features, 0)
    if isinstance(head, DualSoftmax):
        O1, O2, O3, O4 = map(pack_layer, (head.O1, head.O2, head.O3, head.O4))
        return Two(O1, O2, O3, O4, numbers(head.E.weight), *head.O4.weight.shape)
    raise ValueError(f"model must have one softmax or the dual one, got {type(head).__name__}")


def pack_embedding(embedding: nn.Module) -> np.ndarray:
    """(codes a sample, levels, d_model): a vector for each code. Raises ValueError for another embedding."""
    if isinstance(embedding, nn.Embedding):
        return numbers(embedding.weight)[None]
    if isinstance(embedding, PairEmbedding):
        return np.stack([numbers(embedding.coarse.weight), numbers(embedding.fine.weight)])
    raise ValueError(f"model must have a vector for each code, got {type(embedding).__name__}")


@inner
@no_type_check
def embed(codes, t, table, x):
    """The sum of the vectors of the codes before sample t, ``codes[:, t]``, into the first of ``x``."""
    for b in range(len(codes)):
        for h in range(table.shape[2]):
            x[b, h] = table[0, codes[b, t, 0], h]
        for k in range(1, codes.shape[2]):
            for h in range(table.shape[2]):
                x[b, h] += table[k, codes[b, t, k], h]


@inner
@no_type_check
def head_desk(batch, head):
    """What `draw` computes on: a hidden layer and logits."""
    hidden = np.zeros((batch, room(head.hidden)), np.float32)
    return hidden, np.zeros((batch, room(head.levels)), np.float32)


def draw(head, y, orders, t, desk, codes):  # type: ignore[no-untyped-def]
    """Sample t for each row of features: writes its one or two codes as ``codes[:, t + 1]``, and says whether
    all logits were finite. For compiled code to call."""
    raise NotImplementedError


@overload(draw, jit_options=HOW)
@no_type_check
def _draw(head, y, orders, t, desk, codes):
    return _one if head.instance_class is One else _two


@no_type_check
def _one(head, y, orders, t, desk, codes):
    _, logits = desk
    affine(head.layer, y, logits)
    return decide(orders, t, 0, logits, head.levels, codes)


@no_type_check
def _two(head, y, orders, t, desk, codes):
    hidden, logits = desk
    affine(head.O1, y, hidden)
    relu(hidden)
    affine(head.O2, hidden, logits)
    if not decide(orders, t, 0, logits, head.levels, codes):
        return False
    affine(head.O3, y, hidden)
    for b in range(len(y)):
        for i in range(head.E.shape[1]):
            hidden[b, i] += head.E[codes[b, t + 1, 0], i]
    relu(hidden)
    affine(head.O4, hidden, logits)
    return decide(orders, t, 1, logits, head.levels, codes)


@inner
@no_type_check
def relu(x):
    """``max(x, 0)``, in place."""
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            x[b, i] = max(x[b, i], np.float32(0))
