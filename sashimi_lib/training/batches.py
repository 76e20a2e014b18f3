"""Batches of a training step: sequences in an order that follows from the seed, whole or in chunks."""

from collections.abc import Callable
from concurrent.futures import Future

import torch

from sashimi_lib.data.sequences import Batch, Example, PadValue, SequenceDataset, check_pairs, collate
from sashimi_lib.models.trainable import Trainable
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.distributed import SINGLE_PROCESS, DistributedContext
from sashimi_lib.training.rng import preserve_rng_state, seed_all


def load_batch(
    data: SequenceDataset,
    config: TrainingConfig,
    batch_index: int,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> list[Example]:
    """Return the examples of a batch; each epoch is a new permutation, which follows from the seed.

    Each process loads its shard of the batch. Random numbers that the dataset draws are seeded with the
    position of the example in the run, so that they do not depend on the number of processes. The random
    state of the caller is preserved.

    >>> examples = load_batch(torch.arange(4)[:, None], TrainingConfig(batch_size=4), batch_index=0)
    >>> torch.cat(examples).sort().values
    tensor([0, 1, 2, 3])

    Chapters: 6 and 10.
    """
    positions = range(batch_index * config.batch_size, (batch_index + 1) * config.batch_size)
    positions = positions[distributed.shard_slice(config.batch_size)]
    permutations = {}
    for epoch in {position // len(data) for position in positions}:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        permutations[epoch] = torch.randperm(len(data), generator=generator)
    examples = []
    with preserve_rng_state():
        for position in positions:
            seed_all(config.seed, position)
            epoch, index = divmod(position, len(data))
            examples.append(data[int(permutations[epoch][index])])
    return examples


def check_data(model: Trainable, data: SequenceDataset, name: str) -> None:
    """Raise ValueError, naming the data and the index, for no sequences or one that the model cannot take.

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
        examples = [data[index] for index in range(len(data))]
    for index, example in enumerate(examples):
        try:
            batch = collate([example], model.pad_value)
            model.check(batch.sequence, batch.label)
        except ValueError as error:
            raise ValueError(f"{name}[{index}]: {error}") from error
    labels = sum(isinstance(example, tuple) for example in examples)
    check_pairs(labels, len(examples), name)


def _unchanged(batch: Batch) -> Batch:
    return batch


class DataStream:
    """An endless iterator over the batches of a run; with ``config.tbptt_length``, over chunks of them.

    ``batch_index`` and ``sample_offset`` are the position of the next chunk, and all that a checkpoint needs
    to resume. They are the same in every process: each pads its shard to the longest sequence of the global
    batch. Each batch goes through ``prepare`` once, when it is loaded.

    >>> config = TrainingConfig(batch_size=2, tbptt_length=3)
    >>> stream = DataStream(torch.zeros(8, 5, dtype=torch.long), config, pad_value=128)
    >>> [(tuple(batch.sequence.shape), batch.is_start) for batch in (next(stream) for _ in range(3))]
    [((2, 3), True), ((2, 2), False), ((2, 3), True)]
    >>> stream.batch_index, stream.sample_offset
    (1, 3)

    Chapter: 7. Raises ValueError as `collate` does.
    """

    def __init__(
        self,
        data: SequenceDataset,
        config: TrainingConfig,
        pad_value: PadValue,
        distributed: DistributedContext = SINGLE_PROCESS,
        prepare: Callable[[Batch], Batch] = _unchanged,
    ) -> None:
        self.data, self.config, self.pad_value, self.distributed = data, config, pad_value, distributed
        self.prepare = prepare
        self.batch_index, self.sample_offset = 0, 0
        self._loaded: tuple[int, Future[Batch]] | None = None  # the last batch that was loaded, and its index

    def __next__(self) -> Batch:
        """Return the next batch, or the next chunk of the current one."""
        batch = self._current_batch().result()
        length = self.distributed.all_reduce_max(batch.sequence.shape[1])
        batch = batch.pad_to(length, self.pad_value)
        start = self.sample_offset
        end = min(length, start + (self.config.tbptt_length or length))
        if end == length:
            self.batch_index, self.sample_offset = self.batch_index + 1, 0
        else:
            self.sample_offset = end
        return batch.slice_time(start, end)

    def prefetch(self) -> None:
        """Load the batch that the next call needs, while a GPU is busy. An error is raised by that call.

        It runs in the thread that trains: a second thread would draw from the same global random numbers as
        the step.
        """
        self._current_batch()

    def _current_batch(self) -> Future[Batch]:
        if self._loaded is None or self._loaded[0] != self.batch_index:
            self._loaded = self.batch_index, _completed(self._load)
        return self._loaded[1]

    def _load(self) -> Batch:
        examples = load_batch(self.data, self.config, self.batch_index, self.distributed)
        return self.prepare(collate(examples, self.pad_value))


def _completed(load: Callable[[], Batch]) -> Future[Batch]:
    """Call a function now and return its result, or the error that it raises, as a completed future."""
    future: Future[Batch] = Future()
    try:
        future.set_result(load())
    except Exception as error:
        future.set_exception(error)
    return future
