"""What each step trains on: batches of sequences in an order known from the seed, whole or in pieces."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.team import ALONE, Team

Silence = int | tuple[int, int] | float  # a sample of it
Item = Tensor | tuple[Tensor, int]  # a sequence (length,) or (length, 2), or one and its label


@runtime_checkable
class Data(Protocol):
    """Sequences of codes or of amplitudes, of one length or of many: a tensor (n, length), a list, a dataset.

    Where a model is to be told what they are, each comes with its label, as a pair ``(sequence, label)``:
    all of them, or none.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item: ...


class Piece(NamedTuple):
    """Sequences side by side, or the next piece of each: their samples, which of them are real, whether the
    sequences begin here, and their labels, if they have any."""

    sequence: Num[Tensor, "batch length *two"]
    real: Bool[Tensor, "batch length"]
    first: bool
    label: Int[Tensor, " batch"] | None

    def to(self, device: torch.device) -> "Piece":
        """The same on a device."""
        label = None if self.label is None else self.label.to(device)
        return Piece(self.sequence.to(device), self.real.to(device), self.first, label)

    def part(self, start: int, end: int) -> "Piece":
        """Samples ``start`` to ``end - 1`` of each sequence."""
        first = self.first and start == 0
        return Piece(self.sequence[:, start:end], self.real[:, start:end], first, self.label)

    def longer(self, length: int, silence: Silence) -> "Piece":
        """With more silence after the sequences, up to a length."""
        batch, samples = self.real.shape
        if samples == length:
            return self
        after = self.sequence.new_tensor(silence).expand(batch, length - samples, *self.sequence.shape[2:])
        real = torch.cat([self.real, self.real.new_zeros(batch, length - samples)], dim=1)
        return Piece(torch.cat([self.sequence, after], dim=1), real, self.first, self.label)

    def rows(self, rows: slice) -> "Piece":
        """Some of the sequences."""
        label = None if self.label is None else self.label[rows]
        return Piece(self.sequence[rows], self.real[rows], self.first, label)


def batch(data: Data, config: TrainingConfig, number: int, team: Team = ALONE) -> list[Item]:
    """The sequences of a batch: a new permutation each epoch, known from the seed and the number alone.

    Each process of a team reads its own, and together they read what one would.

    >>> sequences = batch(torch.arange(4)[:, None], TrainingConfig(batch_size=4), number=0)
    >>> torch.cat(sequences).sort().values
    tensor([0, 1, 2, 3])

    Chapters: 6 and 10.
    """
    position = range(number * config.batch_size, (number + 1) * config.batch_size)
    position = position[team.rows(config.batch_size)]
    order = {}
    for epoch in {p // len(data) for p in position}:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        order[epoch] = torch.randperm(len(data), generator=generator)
    return [data[int(order[p // len(data)][p % len(data)])] for p in position]


def collate(items: Sequence[Item], silence: Silence) -> Piece:
    """Sequences with silence after them, up to the longest; which samples are real; and the labels.

    What follows a sequence is not scored, and that is all that is left to do: a causal model cannot hear it,
    and any other hears silence.

    >>> piece = collate([torch.tensor([7, 8]), torch.tensor([9])], silence=128)
    >>> piece.sequence, piece.real
    (tensor([[  7,   8],
             [  9, 128]]), tensor([[ True,  True],
                                   [ True, False]]))
    >>> collate([(torch.zeros(3), 7), (torch.zeros(2), 4)], silence=0.0).label
    tensor([7, 4])

    Chapters: 7 and 9. Raises ValueError for a mixture of sequences with labels and without.
    """
    labels = [item[1] for item in items if isinstance(item, tuple)]
    if len(labels) not in (0, len(items)):
        raise ValueError(
            f"data must hold only sequences or only pairs (sequence, label), got {len(labels)} pairs "
            f"among {len(items)} items"
        )
    sequences = [sequence_of(item) for item in items]
    x = pad_sequence(sequences, batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=x.device)
    real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    x[~real] = x.new_tensor(silence)
    return Piece(x, real, True, torch.tensor(labels) if labels else None)


def sequence_of(item: Item) -> Num[Tensor, "length *two"]:
    """The sequence of an item, without its label."""
    return item if isinstance(item, Tensor) else item[0]


class Pieces:
    """The samples of step after step: whole batches, or with ``config.truncate`` the next piece of each. The
    next batch is read while one is computed with.

    ``number`` and ``offset`` say where the next piece begins, and are all there is to keep between two
    sessions. In a team they are the same for all, whose sequences end together, with the longest of a batch.

    >>> pieces = Pieces(torch.zeros(8, 5, dtype=torch.long), TrainingConfig(batch_size=2, truncate=3), 128)
    >>> [(tuple(piece.sequence.shape), piece.first) for piece in (next(pieces) for _ in range(3))]
    [((2, 3), True), ((2, 2), False), ((2, 3), True)]
    >>> pieces.number, pieces.offset
    (1, 3)

    Chapter: 7. Raises ValueError as `collate` does.
    """

    def __init__(self, data: Data, config: TrainingConfig, silence: Silence, team: Team = ALONE) -> None:
        self.data, self.config, self.silence, self.team = data, config, silence, team
        self.number, self.offset = 0, 0
        self._reader = ThreadPoolExecutor(1)
        self._reading: dict[int, Future[Piece]] = {}  # batches by their numbers: this one, and the next

    def __next__(self) -> Piece:
        """The next piece. It never ends."""
        numbers = (self.number, self.number + 1)
        self._reading = {n: self._reading.get(n) or self._reader.submit(self._read, n) for n in numbers}
        whole = self._reading[self.number].result()
        whole = whole.longer(self.team.most(whole.sequence.shape[1]), self.silence)
        start, length = self.offset, whole.sequence.shape[1]
        end = min(length, start + (self.config.truncate or length))
        self.number, self.offset = (self.number + 1, 0) if end == length else (self.number, end)
        return whole.part(start, end)

    def _read(self, number: int) -> Piece:
        return collate(batch(self.data, self.config, number, self.team), self.silence)
