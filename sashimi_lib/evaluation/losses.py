"""What held-out sequences cost a model, one figure each: the losses of training, without gradients."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.data.sequences import Batch, SequenceDataset, collate, sequence_of
from sashimi_lib.models.states import map_state
from sashimi_lib.models.trainable import Trainable
from sashimi_lib.ssm.kernel_cache import cached_kernels
from sashimi_lib.ssm.precision import tf32_allowed

EVAL_CHUNK = 32_768  # samples of each sequence in one forward pass, where the model can carry a state over


def per_sequence_loss(
    model: Trainable, data: SequenceDataset, batch_size: int = 8, frame: int = EVAL_CHUNK
) -> Float[Tensor, " sequences"]:
    """The loss of each sequence, the mean over its samples. float64, on the CPU.

    Bits per sample of a model of codes, the mean squared error of a diffusion model. Where the model has a
    state to carry over, sequences go through in chunks of ``frame`` samples, so that minutes of sound need no
    more memory than one chunk. Random numbers, for a model that takes any, follow from the index of a
    sequence and the number of sequences: they are the same at every call, and the caller's are left as they
    were. Always in full precision.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> per_sequence_loss(WaveRNN(WaveRNNConfig(8)), torch.zeros(3, 50, 2, dtype=torch.long)).shape
    torch.Size([3])

    Chapters: 7 and 9. Raises ValueError for no sequences.
    """
    return losses_and_lengths(model, data, range(len(data)), batch_size, frame)[0]


@torch.no_grad()
@tf32_allowed(False)
def losses_and_lengths(
    model: Trainable, data: SequenceDataset, indices: range, batch_size: int, frame: int
) -> tuple[Float[Tensor, " sequences"], Float[Tensor, " sequences"]]:
    """`per_sequence_loss` of some of the sequences, the shard of one process; and their lengths in samples.

    Chapter: 10.
    """
    if len(data) == 0:
        raise ValueError("data must hold at least one sequence, got none")
    items = [data[index] for index in indices]
    lengths = [len(sequence_of(item)) for item in items]
    losses = torch.zeros(len(items), dtype=torch.float64)
    whole = model.initial_cache(1) is None
    with torch.random.fork_rng(devices=[]), cached_kernels(model):
        torch.default_generator.manual_seed(0)
        noise = model.sample_noise(len(data))
        for places in batches_by_length(lengths, batch_size, equal=whole):
            batch = collate([items[place] for place in places], model.pad_value)
            model.check(batch.sequence, batch.label)
            rows = [indices[place] for place in places]
            own_noise = None if noise is None else map_state(lambda x: x[rows], noise)  # noqa: B023
            losses[places] = _batch_losses(model, batch.to(model.device), frame, own_noise)
    return losses, torch.tensor(lengths, dtype=torch.float64)


def batches_by_length(lengths: Sequence[int], batch_size: int, equal: bool) -> Iterator[list[int]]:
    """Indices of the sequences of each batch: of similar lengths, for little padding, and the longest first,
    whose kernels are then all there is to make. With ``equal`` of one length, without padding: a model that
    is not causal takes padding for sound.

    >>> list(batches_by_length([3, 5, 3, 4], batch_size=2, equal=False))
    [[1, 3], [0, 2]]
    >>> list(batches_by_length([3, 5, 3, 4], batch_size=2, equal=True))
    [[1], [3], [0, 2]]
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index], reverse=True)
    for _, similar in itertools.groupby(order, key=lambda index: lengths[index] if equal else 0):
        group = list(similar)
        yield from (group[first : first + batch_size] for first in range(0, len(group), batch_size))


def _batch_losses(model: Trainable, batch: Batch, frame: int, noise: Any) -> Float[Tensor, " batch"]:
    cache, length = model.initial_cache_for(batch.sequence), batch.sequence.shape[1]
    total, frame = torch.zeros(len(batch.mask), dtype=torch.float64), length if cache is None else frame
    for start in range(0, length, frame):
        piece = batch.slice_time(start, start + frame)
        losses, cache = model.loss(piece.sequence, cache, piece.label, noise)
        total += torch.where(piece.mask.cpu(), losses.double().cpu(), 0).sum(1)
    return total / batch.mask.cpu().sum(1)
