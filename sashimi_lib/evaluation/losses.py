"""The loss of each sequence of a dataset, for validation and evaluation."""

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

EVAL_CHUNK = 32_768  # samples of each sequence in one forward pass, for a model with a cache


def per_sequence_loss(
    model: Trainable, data: SequenceDataset, batch_size: int = 8, chunk_length: int = EVAL_CHUNK
) -> Float[Tensor, " sequences"]:
    """Return the mean loss over the samples of each sequence. float64, on the CPU.

    Bits per sample of a model of codes, the mean squared error of a diffusion model. Sequences of a model
    with a cache are processed in chunks of ``chunk_length`` samples, so memory does not grow with the length.
    The noise of a diffusion model follows from the index of a sequence and the number of sequences, so it is
    the same in every call; the random state of the caller is preserved. Always in full precision.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> per_sequence_loss(WaveRNN(WaveRNNConfig(8)), torch.zeros(3, 50, 2, dtype=torch.long)).shape
    torch.Size([3])

    Chapters: 7 and 9. Raises ValueError for no sequences.
    """
    return losses_and_lengths(model, data, range(len(data)), batch_size, chunk_length)[0]


@torch.no_grad()
@tf32_allowed(False)
def losses_and_lengths(
    model: Trainable, data: SequenceDataset, indices: range, batch_size: int, chunk_length: int
) -> tuple[Float[Tensor, " sequences"], Float[Tensor, " sequences"]]:
    """Return `per_sequence_loss` of the sequences at ``indices``, such as the shard of a process, and their
    lengths in samples.

    Chapter: 10.
    """
    if len(data) == 0:
        raise ValueError("data must hold at least one sequence, got none")
    examples = [data[index] for index in indices]
    lengths = [len(sequence_of(example)) for example in examples]
    losses = torch.zeros(len(examples), dtype=torch.float64)
    whole_sequences = model.initial_cache(1) is None
    with torch.random.fork_rng(devices=[]), cached_kernels(model):
        torch.default_generator.manual_seed(0)
        noise = model.sample_noise(len(data))
        for positions in batches_by_length(lengths, batch_size, equal=whole_sequences):
            batch = collate([examples[position] for position in positions], model.pad_value)
            model.check(batch.sequence, batch.label)
            rows = [indices[position] for position in positions]
            batch_noise = None if noise is None else map_state(lambda x: x[rows], noise)  # noqa: B023
            losses[positions] = _batch_losses(model, batch.to(model.device), chunk_length, batch_noise)
    return losses, torch.tensor(lengths, dtype=torch.float64)


def batches_by_length(lengths: Sequence[int], batch_size: int, equal: bool) -> Iterator[list[int]]:
    """Return the indices of the sequences of each batch, grouped by length to reduce padding.

    The longest come first, so that later batches use their cached kernels. With ``equal`` all sequences of a
    batch have the same length, without padding, for models that are not causal.

    >>> list(batches_by_length([3, 5, 3, 4], batch_size=2, equal=False))
    [[1, 3], [0, 2]]
    >>> list(batches_by_length([3, 5, 3, 4], batch_size=2, equal=True))
    [[1], [3], [0, 2]]
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index], reverse=True)
    for _, similar in itertools.groupby(order, key=lambda index: lengths[index] if equal else 0):
        group = list(similar)
        yield from (group[start : start + batch_size] for start in range(0, len(group), batch_size))


def _batch_losses(model: Trainable, batch: Batch, chunk_length: int, noise: Any) -> Float[Tensor, " batch"]:
    cache, length = model.initial_cache_for(batch.sequence), batch.sequence.shape[1]
    total = torch.zeros(len(batch.mask), dtype=torch.float64)
    chunk_length = length if cache is None else chunk_length
    for start in range(0, length, chunk_length):
        chunk = batch.slice_time(start, start + chunk_length)
        losses, cache = model.loss(chunk.sequence, cache, chunk.label, noise)
        total += torch.where(chunk.mask.cpu(), losses.double().cpu(), 0).sum(1)
    return total / batch.mask.cpu().sum(1)
