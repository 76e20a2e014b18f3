"""Bits per sample of held-out sequences, of any lengths, whole or in pieces."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sashimi_lib.autoregressive import AudioLM, Past
from sashimi_lib.training.batches import Data, pad


def score(
    model: AudioLM, codes: Int[Tensor, "batch length"], past: Past | None
) -> tuple[Float[Tensor, "batch length"], Past | None]:
    """The log-likelihood of whole sequences (``past`` None) or of a piece, and the past of the next one."""
    if past is None:
        return model.log_likelihood(codes), None
    return model.log_likelihood_from(codes, past)


@torch.no_grad()
def mean_bits(model: AudioLM, data: Data, batch_size: int = 8, truncate: int | None = None) -> float:
    """Bits per sample of all sequences: the mean over samples, so a long sequence counts for more.

    ``truncate`` goes through them in pieces of so many samples, which takes less memory and gives the same.
    Always in full precision.

    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.quantize import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> 7 < mean_bits(model, [torch.full((100,), 120), torch.full((30,), 140)]) < 10
    True

    Chapter: 7. Raises ValueError for no sequences.
    """
    if len(data) == 0:
        raise ValueError("data must hold at least one sequence, got none")
    device, total, count = model.head.weight.device, 0.0, 0
    for start in range(0, len(data), batch_size):
        sequences = [data[i] for i in range(start, min(start + batch_size, len(data)))]
        codes, real = (x.to(device) for x in pad(sequences, model.quantizer.silence))
        past = None if truncate is None else model.beginning(len(codes))
        size = truncate or codes.shape[1]
        for piece, kept in zip(codes.split(size, dim=1), real.split(size, dim=1), strict=True):
            scores, past = score(model, piece, past)
            total -= float(scores[kept].double().sum())
            count += int(kept.sum())
    return total / count
