"""What stands between codes and a head: any sequence model that says how it hears codes (chapters 6 to 8).

A backbone is a class derived from `Backbone` and a configuration derived from `BackboneConfig`, in one file.
``CONTRIBUTING.md`` has one of twenty lines.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from sashimi_lib.audio.quantizers import CoarseFine, Quantizer
from sashimi_lib.models.blocks import SequenceModel
from sashimi_lib.models.heads import DualSoftmax, Head, Softmax


@dataclass(frozen=True)
class BackboneConfig(ABC):
    """The shape of a backbone: a frozen dataclass of plain values, registered with
    `sashimi_lib.registry.register` so that files can name it."""

    @abstractmethod
    def build(self) -> "Backbone":
        """A new backbone of this shape, which keeps it as its ``config``."""


class Backbone(SequenceModel):
    """A sequence model that can stand between codes and a head: it hears what its ``embedding`` makes of
    codes, and gives ``d_model`` features.

    A whole sequence must have a length that ``frame`` divides. ``state_is_queues`` says that the state is a
    tuple of queues, each a tuple of tensors of one shape, oldest first, of which a step reads the oldest and
    appends a new one: a CUDA graph then keeps them as rings.
    """

    config: BackboneConfig
    d_model: int
    frame: int = 1
    state_is_queues: bool = False

    def embedding(self, quantizer: Quantizer) -> nn.Module:
        """What turns codes ``(...)`` into the features it hears: a learned vector each, unless it says
        otherwise."""
        return embedding(quantizer, self.d_model)

    def head(self, quantizer: Quantizer) -> Head:
        """What turns its features into a distribution of the next code: one softmax, or the dual one where
        each sample has two codes."""
        if isinstance(quantizer, CoarseFine):
            return DualSoftmax(self.d_model, quantizer.levels)
        return Softmax(self.d_model, quantizer.levels)


def build(config: BackboneConfig) -> Backbone:
    """A new backbone of that shape, which keeps it as its ``config``.

    >>> from sashimi_lib.models import SaShiMiConfig
    >>> build(SaShiMiConfig(d_model=8, n_layers=1)).config
    SaShiMiConfig(d_model=8, n_layers=1, ...)

    Chapter: 7.
    """
    return config.build()


class PairEmbedding(nn.Module):
    """The coarse and the fine code of a sample, a learned vector each, added.

    >>> import torch
    >>> PairEmbedding(256, 8)(CoarseFine().encode(torch.zeros(1, 5))).shape
    torch.Size([1, 5, 8])

    Chapter: 8.
    """

    def __init__(self, levels: int, d_model: int) -> None:
        super().__init__()
        self.coarse, self.fine = nn.Embedding(levels, d_model), nn.Embedding(levels, d_model)

    def forward(self, codes: Int[Tensor, "*batch two"]) -> Float[Tensor, "*batch d_model"]:
        """Codes (..., 2) -> features (..., d_model)."""
        coarse, fine = codes.unbind(-1)
        return self.coarse(coarse) + self.fine(fine)


def embedding(quantizer: Quantizer, d_model: int) -> nn.Embedding | PairEmbedding:
    """A learned vector for each code, or for each of a sample's two codes.

    >>> embedding(CoarseFine(), 8).fine.weight.shape
    torch.Size([256, 8])
    """
    if isinstance(quantizer, CoarseFine):
        return PairEmbedding(quantizer.levels, d_model)
    return nn.Embedding(quantizer.levels, d_model)
