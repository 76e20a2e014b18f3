"""What each step trains on: batches of sequences in an order known from the seed, whole or in pieces."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sashimi_lib.training.config import TrainingConfig


@runtime_checkable
class Data(Protocol):
    """Sequences of codes, of one length or of many: a tensor (n, length), a list, a dataset of tensors."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


def batch(data: Data, config: TrainingConfig, number: int) -> list[Int[Tensor, "_ *two"]]:
    """The sequences of a batch: a new permutation each epoch, known from the seed and the number alone.

    >>> sequences = batch(torch.arange(4)[:, None], TrainingConfig(batch_size=4), number=0)
    >>> torch.cat(sequences).sort().values
    tensor([0, 1, 2, 3])

    Chapter: 6.
    """
    position = range(number * config.batch_size, (number + 1) * config.batch_size)
    order = {}
    for epoch in {p // len(data) for p in position}:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        order[epoch] = torch.randperm(len(data), generator=generator)
    return [data[int(order[p // len(data)][p % len(data)])] for p in position]


def pad(
    sequences: Sequence[Int[Tensor, "_ *two"]], silence: int | tuple[int, int]
) -> tuple[Int[Tensor, "batch length *two"], Bool[Tensor, "batch length"]]:
    """Sequences with silence after them, up to the longest; and which samples are real.

    A causal model cannot hear what follows, so all that is left to do is not to score it.

    >>> pad([torch.tensor([7, 8]), torch.tensor([9])], silence=128)
    (tensor([[  7,   8],
             [  9, 128]]), tensor([[ True,  True],
                                   [ True, False]]))

    Chapter: 7.
    """
    codes = pad_sequence(list(sequences), batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=codes.device)
    real = torch.arange(codes.shape[1], device=codes.device) < lengths[:, None]
    codes[~real] = codes.new_tensor(silence)
    return codes, real


class Pieces:
    """The samples of step after step: whole batches, or with ``config.truncate`` the next piece of each.

    ``number`` and ``offset`` say where the next piece begins, and are all there is to keep between two
    sessions.

    >>> pieces = Pieces(torch.zeros(8, 5, dtype=torch.long), TrainingConfig(batch_size=2, truncate=3), 128)
    >>> [(tuple(codes.shape), first) for codes, _, first in (next(pieces) for _ in range(3))]
    [((2, 3), True), ((2, 2), False), ((2, 3), True)]
    >>> pieces.number, pieces.offset
    (1, 3)

    Chapter: 7.
    """

    def __init__(self, data: Data, config: TrainingConfig, silence: int | tuple[int, int]) -> None:
        self.data, self.config, self.silence = data, config, silence
        self.number, self.offset = 0, 0
        self._read: tuple[int, tuple[Tensor, Tensor]] | None = None  # a batch, and its number

    def __next__(self) -> tuple[Int[Tensor, "batch length *two"], Bool[Tensor, "batch length"], bool]:
        """Codes, which of them are real, and whether the sequences begin here. It never ends."""
        codes, real = self._batch()
        start, length = self.offset, codes.shape[1]
        end = min(length, start + (self.config.truncate or length))
        self.number, self.offset = (self.number + 1, 0) if end == length else (self.number, end)
        return codes[:, start:end], real[:, start:end], start == 0

    def _batch(self) -> tuple[Tensor, Tensor]:
        if self._read is None or self._read[0] != self.number:
            self._read = self.number, pad(batch(self.data, self.config, self.number), self.silence)
        return self._read[1]
