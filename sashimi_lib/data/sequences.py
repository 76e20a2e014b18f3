"""Datasets of sequences, with or without labels, and their collation into padded batches."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

PadValue = int | tuple[int, int] | float  # one sample
Example = Tensor | tuple[Tensor, int]  # a sequence (length,) or (length, 2), or one and its label


@runtime_checkable
class SequenceDataset(Protocol):
    """Sequences of codes or amplitudes, of one length or several: a tensor (n, length), a list, a dataset.

    Data for a model with class labels are pairs ``(sequence, label)``: all of them, or none.

    A dataset may draw random numbers, to augment its sequences. Numbers from the global generators of PyTorch
    (on the CPU), NumPy or Python follow from the seed and the position in the run, so that the run can be
    repeated and resumed. Numbers from a generator of the dataset's own do not.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


class Batch(NamedTuple):
    """Padded sequences, or a chunk of each: samples, a mask that is true for all but padding, whether the
    sequences start here, and their class labels or None."""

    sequence: Num[Tensor, "batch length *two"]
    mask: Bool[Tensor, "batch length"]
    is_start: bool
    label: Int[Tensor, " batch"] | None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device. Copies of `pinned` memory to a GPU are asynchronous."""
        on_gpu = device.type == "cuda"
        return self._map(lambda x: x.to(device, non_blocking=on_gpu))

    def pinned(self) -> "Batch":
        """Return the batch in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        label = None if self.label is None else function(self.label)
        return Batch(function(self.sequence), function(self.mask), self.is_start, label)

    def slice_time(self, start: int, end: int) -> "Batch":
        """Return samples ``start`` to ``end - 1`` of each sequence."""
        is_start = self.is_start and start == 0
        return Batch(self.sequence[:, start:end], self.mask[:, start:end], is_start, self.label)

    def pad_to(self, length: int, pad_value: PadValue) -> "Batch":
        """Return the batch padded at its end to ``length`` samples."""
        size, samples = self.mask.shape
        if samples == length:
            return self
        padding = self.sequence.new_tensor(pad_value).expand(size, length - samples, *self.sequence.shape[2:])
        mask = torch.cat([self.mask, self.mask.new_zeros(size, length - samples)], dim=1)
        return Batch(torch.cat([self.sequence, padding], dim=1), mask, self.is_start, self.label)

    def select(self, rows: slice) -> "Batch":
        """Return the sequences of a slice of the batch."""
        label = None if self.label is None else self.label[rows]
        return Batch(self.sequence[rows], self.mask[rows], self.is_start, label)


def collate(examples: Sequence[Example], pad_value: PadValue) -> Batch:
    """Pad sequences to the longest one; return them with their mask and labels.

    The loss of padding is masked, and padding comes last, so a causal model needs nothing else.

    >>> batch = collate([torch.tensor([7, 8]), torch.tensor([9])], pad_value=128)
    >>> batch.sequence, batch.mask
    (tensor([[  7,   8],
             [  9, 128]]), tensor([[ True,  True],
                                   [ True, False]]))
    >>> collate([(torch.zeros(3), 7), (torch.zeros(2), 4)], pad_value=0.0).label
    tensor([7, 4])

    Chapters: 7 and 9. Raises ValueError for a mixture of sequences with labels and without, and for
    examples that are not tensors.
    """
    labels = [example[1] for example in examples if isinstance(example, tuple)]
    check_pairs(len(labels), len(examples))
    sequences = [sequence_of(example) for example in examples]
    x = pad_sequence(sequences, batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=x.device)
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    x[~mask] = x.new_tensor(pad_value)
    return Batch(x, mask, True, torch.tensor(labels) if labels else None)


def sequence_of(example: Example) -> Num[Tensor, "length *two"]:
    """Return the sequence of an example, without its label. Raises ValueError if it is not a tensor."""
    sequence = example[0] if isinstance(example, tuple) else example
    if not isinstance(sequence, Tensor):
        raise ValueError(
            "data must hold tensors, or pairs (tensor, label), got an item of "
            f"{type(sequence).__name__}: convert arrays with torch.as_tensor"
        )
    return sequence


def check_pairs(labels: int, examples: int, name: str = "data") -> None:
    """Raise ValueError unless all examples are pairs with a label, or none of them is."""
    if labels not in (0, examples):
        raise ValueError(
            f"{name} must hold only sequences or only pairs (sequence, label), got {labels} pairs "
            f"among {examples} items"
        )
