"""Ordered initialization for short training runs: neighboring codes start with similar embeddings.

A softmax over 256 codes treats them as 256 unrelated classes. The published models start from random
embeddings and have to learn that code 131 lies between 130 and 132, which takes many steps.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sashimi_lib.audio.quantizers import CoarseFine, Linear, MuLaw
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.heads import DualSoftmax, Head, JointSoftmax, Softmax


def ordered_embeddings(quantizer: MuLaw | Linear, d_model: int) -> Float[Tensor, "levels d_model"]:
    """Return an embedding for each code that varies smoothly with its amplitude and its position.

    The first ``d_model // 2`` entries are ``tanh(a s)`` of the decoded amplitude s for gains a from 2 to 30:
    nearly linear for low amplitudes, which suits the linear memory of a state space. The others are
    ``sqrt(2) cos(pi f y + phase)`` of the code's position y in [-1, 1), f from 1/4 to 20: together they
    separate even neighboring codes.

    >>> vectors = ordered_embeddings(MuLaw(), 32)
    >>> near, far = (vectors[131] - vectors[130]).norm(), (vectors[160] - vectors[130]).norm()
    >>> vectors.shape, bool(3 * near < far)
    (torch.Size([256, 32]), True)

    Chapter: 6. Raises ValueError for fewer than 2 channels.
    """
    if d_model < 2:
        raise ValueError(f"d_model must be at least 2, got {d_model}")
    codes = torch.arange(quantizer.levels)
    gains = torch.logspace(math.log10(2), math.log10(30), d_model // 2)
    waves = torch.linspace(0.25, 20, d_model - d_model // 2)
    phase = torch.arange(len(waves)) % 2 * math.pi / 2
    position = 2 * codes / quantizer.levels - 1
    return torch.cat(
        [
            torch.tanh(gains * quantizer.decode(codes)[:, None]),
            math.sqrt(2) * torch.cos(math.pi * waves * position[:, None] + phase),
        ],
        dim=1,
    )


@torch.no_grad()
def init_ordered_embeddings(model: AudioLM) -> None:
    """Initialize the embedding and the head of a new model from `ordered_embeddings`, in place.

    A head of logistics is left as it is: it models the order of amplitudes by construction.

    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> init_ordered_embeddings(model)
    >>> torch.equal(model.embedding.weight, ordered_embeddings(MuLaw(), 8))
    True

    Chapter: 6.
    """
    # The bytes of a 16-bit sample lie on a linear scale.
    scale = Linear(model.quantizer.levels) if isinstance(model.quantizer, CoarseFine) else model.quantizer
    embeddings = [m for m in model.embedding.modules() if isinstance(m, nn.Embedding)]
    for embedding in embeddings:
        vectors = ordered_embeddings(scale, embedding.embedding_dim)
        embedding.weight.copy_(vectors / math.sqrt(len(embeddings)))
    for linear in _softmaxes(model.head):
        quantizer = scale if linear.out_features == scale.levels else Linear(linear.out_features)
        vectors = ordered_embeddings(quantizer, linear.in_features)
        if parametrize.is_parametrized(linear):  # weight norm, which sets its parts on assignment
            linear.weight = (vectors / math.sqrt(vectors.shape[1])).to(linear.weight)
        else:
            linear.weight.copy_(vectors / math.sqrt(vectors.shape[1]))
        linear.bias.zero_()


def _softmaxes(head: Head) -> list[nn.Linear]:
    """Return the linear layers of a head whose rows belong to codes."""
    match head:
        case Softmax():
            return [head]
        case DualSoftmax():
            return [head.O2, head.O4]
        case JointSoftmax():
            return [head.linear]
    return []
