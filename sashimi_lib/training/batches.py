"""What each step trains on: batches of sequences in an order known from the seed, whole or in pieces."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sashimi_lib.models.trainable import Trainable
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.distributed import SINGLE_PROCESS, DistributedContext
from sashimi_lib.training.rng import preserve_rng_state, seed_all

PadValue = int | tuple[int, int] | float  # a sample of it
Example = Tensor | tuple[Tensor, int]  # a sequence (length,) or (length, 2), or one and its label


@runtime_checkable
class SequenceDataset(Protocol):
    """Sequences of codes or of amplitudes, of one length or of many: a tensor (n, length), a list, a dataset.

    Where a model is to be told what they are, each comes with its label, as a pair ``(sequence, label)``:
    all of them, or none.

    An item may be another one each time, as one that is augmented: what it draws from the global generators
    of PyTorch (of the CPU), NumPy or Python follows from the seed and its place in the run, so that the run
    can be repeated and taken up again. A generator that a dataset keeps for itself does not.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


class Batch(NamedTuple):
    """Sequences side by side, or the next piece of each: their samples, which of them are real, whether the
    sequences begin here, and their labels, if they have any."""

    sequence: Num[Tensor, "batch length *two"]
    mask: Bool[Tensor, "batch length"]
    is_start: bool
    label: Int[Tensor, " batch"] | None

    def to(self, device: torch.device) -> "Batch":
        """The same on a device. A GPU copies `pinned` memory while the CPU goes on."""
        on_gpu = device.type == "cuda"
        return self._each(lambda x: x.to(device, non_blocking=on_gpu))

    def pinned(self) -> "Batch":
        """The same in memory that a GPU can read by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        label = None if self.label is None else change(self.label)
        return Batch(change(self.sequence), change(self.mask), self.is_start, label)

    def slice_time(self, start: int, end: int) -> "Batch":
        """Samples ``start`` to ``end - 1`` of each sequence."""
        first = self.is_start and start == 0
        return Batch(self.sequence[:, start:end], self.mask[:, start:end], first, self.label)

    def pad_to(self, length: int, pad_value: PadValue) -> "Batch":
        """With more silence after the sequences, up to a length."""
        batch, samples = self.mask.shape
        if samples == length:
            return self
        after = self.sequence.new_tensor(pad_value).expand(batch, length - samples, *self.sequence.shape[2:])
        mask = torch.cat([self.mask, self.mask.new_zeros(batch, length - samples)], dim=1)
        return Batch(torch.cat([self.sequence, after], dim=1), mask, self.is_start, self.label)

    def rows(self, rows: slice) -> "Batch":
        """Some of the sequences."""
        label = None if self.label is None else self.label[rows]
        return Batch(self.sequence[rows], self.mask[rows], self.is_start, label)


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


def collate(items: Sequence[Example], pad_value: PadValue) -> Batch:
    """Sequences with silence after them, up to the longest; which samples are real; and the labels.

    What follows a sequence is not scored, and that is all that is left to do: a causal model cannot hear it,
    and any other hears silence.

    >>> piece = collate([torch.tensor([7, 8]), torch.tensor([9])], pad_value=128)
    >>> piece.sequence, piece.mask
    (tensor([[  7,   8],
             [  9, 128]]), tensor([[ True,  True],
                                   [ True, False]]))
    >>> collate([(torch.zeros(3), 7), (torch.zeros(2), 4)], pad_value=0.0).label
    tensor([7, 4])

    Chapters: 7 and 9. Raises ValueError for a mixture of sequences with labels and without, and for items
    that are no tensors.
    """
    labels = [item[1] for item in items if isinstance(item, tuple)]
    _check_pairs(len(labels), len(items))
    sequences = [sequence_of(item) for item in items]
    x = pad_sequence(sequences, batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=x.device)
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    x[~mask] = x.new_tensor(pad_value)
    return Batch(x, mask, True, torch.tensor(labels) if labels else None)


def sequence_of(item: Example) -> Num[Tensor, "length *two"]:
    """The sequence of an item, without its label. ValueError for one that is no tensor."""
    sequence = item[0] if isinstance(item, tuple) else item
    if not isinstance(sequence, Tensor):
        raise ValueError(
            "data must hold tensors, or pairs (tensor, label), got an item of "
            f"{type(sequence).__name__}: torch.as_tensor makes a tensor of an array"
        )
    return sequence


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
    _check_pairs(labels, len(items), name)


def _check_pairs(labels: int, items: int, name: str = "data") -> None:
    if labels not in (0, items):
        raise ValueError(
            f"{name} must hold only sequences or only pairs (sequence, label), got {labels} pairs "
            f"among {items} items"
        )


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
