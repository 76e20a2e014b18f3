"""Sequences as models take them: items of a dataset, with or without labels, collated into padded batches."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
    check_pairs(len(labels), len(items))
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


def check_pairs(labels: int, items: int, name: str = "data") -> None:
    """Raise ValueError unless all items of some data are pairs with a label, or none of them."""
    if labels not in (0, items):
        raise ValueError(
            f"{name} must hold only sequences or only pairs (sequence, label), got {labels} pairs "
            f"among {items} items"
        )
