"""The loss of held-out data: that of training, for every sequence, without gradients."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.models.states import map_state
from sashimi_lib.models.trainable import Trainable
from sashimi_lib.ssm.kernel_cache import cached_kernels
from sashimi_lib.ssm.precision import tf32_allowed
from sashimi_lib.training.batches import Batch, SequenceDataset, collate, sequence_of
from sashimi_lib.training.distributed import SINGLE_PROCESS, DistributedContext

AT_ONCE = 32_768  # samples of each sequence that go through together, where a model can hear it in pieces


def validation_loss(
    model: Trainable,
    data: SequenceDataset,
    batch_size: int = 8,
    tbptt_length: int | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> float:
    """The mean loss of all samples of all sequences, so a long sequence counts for more: bits per
    sample of a model of codes, the mean squared error of a diffusion model. Several processes share the
    sequences out, and the result is the same.

    Sequences go through as in `losses`, in pieces of ``tbptt_length`` samples if a recipe counts on little
    memory. Always in full precision.

    >>> from sashimi_lib.models.audio_lm import AudioLM
    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.audio.quantizers import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> 7 < validation_loss(model, [torch.full((100,), 120), torch.full((30,), 140)]) < 10
    True

    Chapters: 7, 9 and 10. Raises ValueError for no sequences.
    """
    numbers = range(distributed.rank, len(data), distributed.size)
    each, lengths = _losses(model, data, numbers, batch_size, tbptt_length or AT_ONCE)
    total, samples = distributed.all_reduce_sum(torch.stack([each @ lengths, lengths.sum()]))
    return float(total / samples)


def losses(
    model: Trainable, data: SequenceDataset, batch_size: int = 8, frame: int = AT_ONCE
) -> Float[Tensor, " sequences"]:
    """The mean loss of each sequence, each from its beginning. float64, on the CPU.

    Where the model has a past to carry on, sequences go through in pieces of ``frame`` samples, so that
    minutes of sound need no more memory than one piece. Random numbers, for a model that takes any, follow
    from the number of a sequence and of all sequences: they are the same at every call, and the caller's are
    left as they were.

    Chapters: 7 and 9. Raises ValueError for no sequences.
    """
    return _losses(model, data, range(len(data)), batch_size, frame)[0]


@torch.no_grad()
@tf32_allowed(False)
def _losses(
    model: Trainable, data: SequenceDataset, numbers: range, batch_size: int, frame: int
) -> tuple[Float[Tensor, " sequences"], Float[Tensor, " sequences"]]:
    """The same of some sequences, the shard of this process; and their lengths."""
    if len(data) == 0:
        raise ValueError("data must hold at least one sequence, got none")
    items = [data[number] for number in numbers]
    lengths = [len(sequence_of(item)) for item in items]
    result = torch.zeros(len(items), dtype=torch.float64)
    whole = model.initial_cache(1) is None
    with torch.random.fork_rng(devices=[]), cached_kernels(model):
        torch.default_generator.manual_seed(0)
        noise = model.sample_noise(len(data))
        for places in _batches(lengths, batch_size, whole):
            batch = collate([items[place] for place in places], model.pad_value)
            model.check(batch.sequence, batch.label)
            rows = [numbers[place] for place in places]
            own_noise = None if noise is None else map_state(lambda x: x[rows], noise)  # noqa: B023
            result[places] = _batch_losses(model, batch.to(model.device), frame, own_noise)
    return result, torch.tensor(lengths, dtype=torch.float64)


def _batches(lengths: Sequence[int], batch_size: int, whole: bool) -> Iterator[list[int]]:
    """Which sequences go through side by side: those of about the same length, for little padding, and the
    longest first, whose kernels are then all there is to make. A model of ``whole`` sequences hears what
    follows them, so none is padded: its loss would depend on the others."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place], reverse=True)
    for _, alike in itertools.groupby(order, key=lambda place: lengths[place] if whole else 0):
        group = list(alike)
        yield from (group[first : first + batch_size] for first in range(0, len(group), batch_size))


def _batch_losses(model: Trainable, whole: Batch, frame: int, noise: Any) -> Float[Tensor, " batch"]:
    """The same for sequences side by side."""
    cache, length = model.initial_cache_for(whole.sequence), whole.sequence.shape[1]
    total, frame = torch.zeros(len(whole.mask), dtype=torch.float64), length if cache is None else frame
    for start in range(0, length, frame):
        piece = whole.slice_time(start, start + frame)
        sample_losses, cache = model.loss(piece.sequence, cache, piece.label, noise)
        total += torch.where(piece.mask.cpu(), sample_losses.double().cpu(), 0).sum(1)
    return total / whole.mask.cpu().sum(1)
