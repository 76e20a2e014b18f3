"""A head start for short training runs: codes that are near each other begin with vectors near each other.

A softmax over 256 codes treats them as 256 unrelated words. The published models learn from nothing that code
131 lies between 130 and 132, which takes long. A run of minutes is better spent on music.
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
    """A vector for each code that says where it lies: half amplitude, half waves over the scale of codes.

    The first ``d_model // 2`` entries are ``tanh(a s)`` of the decoded amplitude s for gains a from 2 to 30:
    nearly straight lines for quiet sounds, which is what a linear memory can predict with. The others are
    ``sqrt(2) cos(pi f y + phase)`` of the code's place y in [-1, 1), f from 1/4 to 20: together they tell
    even neighbours apart.

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
    place = 2 * codes / quantizer.levels - 1
    return torch.cat(
        [
            torch.tanh(gains * quantizer.decode(codes)[:, None]),
            math.sqrt(2) * torch.cos(math.pi * waves * place[:, None] + phase),
        ],
        dim=1,
    )


@torch.no_grad()
def init_ordered_embeddings(model: AudioLM) -> None:
    """Start embedding and head of a new model from `ordered_embeddings`; both are trained on from there.

    A head of logistics knows the order of amplitudes by itself.

    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> init_ordered_embeddings(model)
    >>> torch.equal(model.embedding.weight, ordered_embeddings(MuLaw(), 8))
    True

    Chapter: 6.
    """
    # The bytes of a 16-bit sample are places on a straight scale.
    scale = Linear(model.quantizer.levels) if isinstance(model.quantizer, CoarseFine) else model.quantizer
    embeddings = [part for part in model.embedding.modules() if isinstance(part, nn.Embedding)]
    for embedding in embeddings:
        vectors = ordered_embeddings(scale, embedding.embedding_dim)
        embedding.weight.copy_(vectors / math.sqrt(len(embeddings)))
    for linear in _softmaxes(model.head):
        places = scale if linear.out_features == scale.levels else Linear(linear.out_features)
        vectors = ordered_embeddings(places, linear.in_features)
        if parametrize.is_parametrized(linear):  # weight norm: it splits what it is given, where it is
            linear.weight = (vectors / math.sqrt(vectors.shape[1])).to(linear.weight)
        else:
            linear.weight.copy_(vectors / math.sqrt(vectors.shape[1]))
        linear.bias.zero_()


def _softmaxes(head: Head) -> list[nn.Linear]:
    """What gives the logits of a head, a row a code."""
    match head:
        case Softmax():
            return [head]
        case DualSoftmax():
            return [head.O2, head.O4]
        case JointSoftmax():
            return [head.linear]
    return []
