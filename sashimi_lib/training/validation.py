"""The validation loss, in one process or several."""

import torch

from sashimi_lib.data.sequences import SequenceDataset
from sashimi_lib.evaluation.losses import EVAL_CHUNK, losses_and_lengths
from sashimi_lib.models.trainable import Trainable
from sashimi_lib.training.distributed import SINGLE_PROCESS, DistributedContext


def validation_loss(
    model: Trainable,
    data: SequenceDataset,
    batch_size: int = 8,
    tbptt_length: int | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> float:
    """Return the mean loss over all samples of all sequences: bits per sample of a model of codes, the mean
    squared error of a diffusion model.

    Sequences are evaluated as in `sashimi_lib.evaluation.losses.per_sequence_loss`, in chunks of
    ``tbptt_length`` samples if that is set. Processes shard the sequences; the result is the same.

    >>> from sashimi_lib.models.audio_lm import AudioLM
    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.audio.quantizers import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> 7 < validation_loss(model, [torch.full((100,), 120), torch.full((30,), 140)]) < 10
    True

    Chapters: 7, 9 and 10. Raises ValueError for no sequences.
    """
    shard = range(distributed.rank, len(data), distributed.size)
    losses, lengths = losses_and_lengths(model, data, shard, batch_size, tbptt_length or EVAL_CHUNK)
    total, samples = distributed.all_reduce_sum(torch.stack([losses @ lengths, lengths.sum()]))
    return float(total / samples)
