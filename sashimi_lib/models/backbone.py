"""The interface of a backbone: the sequence model between the embedding and the head (chapters 6 to 8).

A backbone is a class derived from `Backbone` and a configuration derived from `BackboneConfig`, in one file.
``CONTRIBUTING.md`` has an example of twenty lines.
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
    """Base class of the configuration of a backbone: a frozen dataclass of plain values, registered with
    `sashimi_lib.registry.register` so that files can name it."""

    @abstractmethod
    def build(self) -> "Backbone":
        """Return a new backbone with this configuration, as its ``config``."""


class Backbone(SequenceModel):
    """A sequence model between an embedding and a head. Input: ``(batch, length, channels)`` from its
    `embedding`; output: ``(batch, length, d_model)``, for its `head`.

    The length of a whole sequence must be a multiple of ``frame``. ``state_is_queues`` declares that the
    state is a tuple of queues, each a tuple of tensors of one shape, oldest first, and that a step reads the
    oldest and appends a new one: CUDA graphs then keep them as ring buffers.
    """

    config: BackboneConfig
    d_model: int
    frame: int = 1
    state_is_queues: bool = False

    def embedding(self, quantizer: Quantizer) -> nn.Module:
        """Return the module that embeds codes ``(...)`` as the backbone's input; by default a learned vector
        for each code."""
        return embedding(quantizer, self.d_model)

    def head(self, quantizer: Quantizer) -> Head:
        """Return the default head for the quantizer's codes: a softmax, or a dual softmax where each sample
        has two codes."""
        if isinstance(quantizer, CoarseFine):
            return DualSoftmax(self.d_model, quantizer.levels)
        return Softmax(self.d_model, quantizer.levels)


class PairEmbedding(nn.Module):
    """The sum of two embeddings: of the coarse and of the fine code of a sample.

    >>> import torch
    >>> PairEmbedding(256, 8)(CoarseFine().encode(torch.zeros(1, 5))).shape
    torch.Size([1, 5, 8])

    Chapter: 8.
    """

    def __init__(self, levels: int, d_model: int) -> None:
        super().__init__()
        self.coarse, self.fine = nn.Embedding(levels, d_model), nn.Embedding(levels, d_model)

    def forward(self, codes: Int[Tensor, "*batch two"]) -> Float[Tensor, "*batch d_model"]:
        """Embed codes: (..., 2) -> (..., d_model)."""
        coarse, fine = codes.unbind(-1)
        return self.coarse(coarse) + self.fine(fine)


def embedding(quantizer: Quantizer, d_model: int) -> nn.Embedding | PairEmbedding:
    """Return an embedding of ``d_model`` channels for the codes of a quantizer.

    >>> embedding(CoarseFine(), 8).fine.weight.shape
    torch.Size([256, 8])
    """
    if isinstance(quantizer, CoarseFine):
        return PairEmbedding(quantizer.levels, d_model)
    return nn.Embedding(quantizer.levels, d_model)
