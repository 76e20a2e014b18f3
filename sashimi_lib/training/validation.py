"""What training asks of a model: how likely a batch is, whole or a piece of it, and held-out data."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sashimi_lib.evaluation.likelihood import clip_bits
from sashimi_lib.models.autoregression import Past, SoundModel
from sashimi_lib.training.batches import Data


def score(
    model: SoundModel, codes: Int[Tensor, "batch length *two"], past: Past | None
) -> tuple[Float[Tensor, "batch length"], Past | None]:
    """The log-likelihood of whole sequences (``past`` None) or of a piece, and the past of the next one.

    Chapter: 7.
    """
    if past is None:
        return model.log_likelihood(codes), None
    return model.log_likelihood_from(codes, past)


def held_out_bits(model: SoundModel, data: Data, batch_size: int = 8, truncate: int | None = None) -> float:
    """Bits per sample of all sequences: the mean over samples, so a long sequence counts for more.

    They go through in pieces, of ``truncate`` samples if a recipe counts on little memory. Always in full
    precision.

    >>> from sashimi_lib.autoregressive import AudioLM
    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.quantize import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> 7 < held_out_bits(model, [torch.full((100,), 120), torch.full((30,), 140)]) < 10
    True

    Chapter: 7. Raises ValueError for no sequences.
    """
    clips = [data[number] for number in range(len(data))]
    lengths = torch.tensor([len(clip) for clip in clips], dtype=torch.float64)
    bits = clip_bits(model, clips, batch_size, truncate or 32_768)
    return float(bits @ lengths / lengths.sum())
