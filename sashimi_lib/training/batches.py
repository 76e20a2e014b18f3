"""What each step trains on: batches of sequences in an order known from the seed, whole or in pieces."""

from collections.abc import Callable
from concurrent.futures import Future

import torch

from sashimi_lib.data.sequences import Batch, Example, PadValue, SequenceDataset, check_pairs, collate
from sashimi_lib.models.trainable import Trainable
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.distributed import SINGLE_PROCESS, DistributedContext
from sashimi_lib.training.rng import preserve_rng_state, seed_all


def batch(
    data: SequenceDataset,
    config: TrainingConfig,
    number: int,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> list[Example]:
    """The sequences of a batch: a new permutation each epoch, known from the seed and the number alone.

    Each process of a team reads its own, and together they read what one would, random numbers included:
    these follow from the seed and from the place of the item in the run. The caller's are left as they were.

    >>> sequences = batch(torch.arange(4)[:, None], TrainingConfig(batch_size=4), number=0)
    >>> torch.cat(sequences).sort().values
    tensor([0, 1, 2, 3])

    Chapters: 6 and 10.
    """
    position = range(number * config.batch_size, (number + 1) * config.batch_size)
    position = position[distributed.shard_slice(config.batch_size)]
    order = {}
    for epoch in {p // len(data) for p in position}:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        order[epoch] = torch.randperm(len(data), generator=generator)
    items = []
    with preserve_rng_state():
        for p in position:
            seed_all(config.seed, p)
            items.append(data[int(order[p // len(data)][p % len(data)])])
    return items


def check_data(model: Trainable, data: SequenceDataset, name: str) -> None:
    """Raise ValueError, naming them, for data that hold nothing, or anything that the model cannot score.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> check_data(WaveRNN(WaveRNNConfig(8)), torch.tensor([[[0, 255]], [[0, 256]]]), "valid")
    Traceback (most recent call last):
        ...
    ValueError: valid[1]: codes must lie in 0..255, got values from 0 to 256

    Chapter: 10.
    """
    if len(data) == 0:
        raise ValueError(f"{name} must hold at least one sequence, got none")
    with preserve_rng_state():
        items = [data[number] for number in range(len(data))]
    for number, item in enumerate(items):
        try:
            piece = collate([item], model.pad_value)
            model.check(piece.sequence, piece.label)
        except ValueError as error:
            raise ValueError(f"{name}[{number}]: {error}") from error
    labels = sum(isinstance(item, tuple) for item in items)
    check_pairs(labels, len(items), name)


def _as_read(piece: Batch) -> Batch:
    return piece


class DataStream:
    """The samples of step after step: whole batches, or with ``config.tbptt_length`` the next piece of each.

    ``batch_index`` and ``sample_offset`` say where the next piece begins, and are all there is to keep between two
    sessions. In a team they are the same for all, whose sequences end together, with the longest of a batch.
    Each batch goes through ``prepared`` once, when it is read.

    >>> pieces = DataStream(torch.zeros(8, 5, dtype=torch.long), TrainingConfig(batch_size=2, tbptt_length=3), 128)
    >>> [(tuple(piece.sequence.shape), piece.is_start) for piece in (next(pieces) for _ in range(3))]
    [((2, 3), True), ((2, 2), False), ((2, 3), True)]
    >>> pieces.batch_index, pieces.sample_offset
    (1, 3)

    Chapter: 7. Raises ValueError as `collate` does.
    """

    def __init__(
        self,
        data: SequenceDataset,
        config: TrainingConfig,
        pad_value: PadValue,
        distributed: DistributedContext = SINGLE_PROCESS,
        prepared: Callable[[Batch], Batch] = _as_read,
    ) -> None:
        self.data, self.config, self.pad_value, self.distributed = data, config, pad_value, distributed
        self.prepared = prepared
        self.batch_index, self.sample_offset = 0, 0
        self._there: tuple[int, Future[Batch]] | None = None  # a batch that was read, and its number

    def __next__(self) -> Batch:
        """The next piece. It never ends."""
        whole = self._batch().result()
        whole = whole.pad_to(self.distributed.all_reduce_max(whole.sequence.shape[1]), self.pad_value)
        start, length = self.sample_offset, whole.sequence.shape[1]
        end = min(length, start + (self.config.tbptt_length or length))
        self.batch_index, self.sample_offset = (
            (self.batch_index + 1, 0) if end == length else (self.batch_index, end)
        )
        return whole.slice_time(start, end)

    def read_ahead(self) -> None:
        """Read what the next piece needs. By the thread that trains, while a GPU is busy: a thread of its own
        would draw from the same global random numbers as the step. An error is kept for the next piece."""
        self._batch()

    def _batch(self) -> Future[Batch]:
        if self._there is None or self._there[0] != self.batch_index:
            self._there = self.batch_index, _done(self._read)
        return self._there[1]

    def _read(self) -> Batch:
        items = batch(self.data, self.config, self.batch_index, self.distributed)
        return self.prepared(collate(items, self.pad_value))


def _done(read: Callable[[], Batch]) -> Future[Batch]:
    """What it gives, or the error that it raises."""
    future: Future[Batch] = Future()
    try:
        future.set_result(read())
    except Exception as error:
        future.set_exception(error)
    return future
