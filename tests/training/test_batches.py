"""Batches: every sequence once an epoch, whole or in chunks; padding has no loss."""

import numpy as np
import pytest
import torch

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.data.sequences import collate
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training.batches import DataStream, load_batch
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.trainer import train
from sashimi_lib.training.validation import validation_loss
from tests.awkward import without_shape_checks

LENGTHS = (50, 33, 64, 17)


@pytest.fixture
def sequences():
    return [torch.randint(100, 150, (length,)) for length in LENGTHS]


def new_model():
    torch.manual_seed(1)
    return AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)))


def test_every_sequence_is_in_one_batch_per_epoch():
    data = torch.arange(6)[:, None]
    config = TrainingConfig(batch_size=2)
    batches = [torch.stack(load_batch(data, config, index)) for index in range(6)]
    epochs = [torch.cat(batches[:3]), torch.cat(batches[3:])]
    assert all(torch.equal(epoch.sort(dim=0).values, data) for epoch in epochs)
    assert not torch.equal(*epochs)


def test_chunks_concatenate_to_the_batches(sequences):
    data = [(sequence, index) for index, sequence in enumerate(sequences)]
    config = TrainingConfig(batch_size=2, tbptt_length=20)
    chunks, batches = DataStream(data, config, 128), DataStream(data, TrainingConfig(batch_size=2), 128)
    for _ in range(4):
        batch = next(batches)
        assert batch.is_start
        read = 0
        while read < batch.sequence.shape[1]:
            chunk = next(chunks)
            assert chunk.is_start == (read == 0)
            assert chunk.mask.any()
            assert torch.equal(chunk.sequence, batch.sequence[:, read : read + 20])
            assert torch.equal(chunk.mask, batch.mask[:, read : read + 20])
            assert torch.equal(chunk.label, batch.label)
            read += chunk.sequence.shape[1]
        assert read == batch.sequence.shape[1]


def test_sequences_of_one_length_give_the_plain_mean():
    data = torch.randint(100, 150, (5, 100))
    config, plain = TrainingConfig(steps=1, batch_size=5), new_model()
    loss = -plain.log_likelihood(torch.stack(load_batch(data, config, 0))).mean()
    loss.backward()
    model, seen = new_model(), {}
    history = train(model, data, config, progress=False, on_step=lambda *_: seen.update(grads(model)))
    assert history.loss == [loss.item()]
    assert all(torch.equal(seen[name], grad) for name, grad in grads(plain).items())


def grads(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_padding_has_no_loss(sequences):
    model = new_model()
    history = train(model, sequences, TrainingConfig(steps=1, batch_size=4), progress=False)
    model = new_model()
    with torch.no_grad():
        log_likelihoods = torch.cat([model.log_likelihood(sequence[None])[0] for sequence in sequences])
    assert history.loss[0] == pytest.approx(-float(log_likelihoods.mean()), abs=1e-5)


def test_truncated_training_carries_the_state_and_cuts_the_gradient(sequences):
    data, config = torch.stack([s.repeat(4)[:60] for s in sequences]), TrainingConfig(batch_size=4)
    model, frozen = new_model(), {"lr": 1e-12, "ssm_lr": 1e-12}  # steps of negligible size
    losses = train(
        model, data, TrainingConfig(steps=3, batch_size=4, tbptt_length=20, **frozen), progress=False
    ).loss
    with torch.no_grad():
        whole = -model.log_likelihood(torch.stack(load_batch(data, config, 0)))
    for n in range(3):
        assert losses[n] == pytest.approx(float(whole[:, 20 * n : 20 * n + 20].mean()), abs=1e-4)
    alone = train(
        new_model(), data[:, 20:40], TrainingConfig(steps=1, batch_size=4, **frozen), progress=False
    )
    assert abs(alone.loss[0] - losses[1]) > 1e-3  # the carried state matters


@pytest.mark.parametrize("tbptt_length", [None, 10, 64])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_validation_is_the_mean_over_all_samples_for_any_chunk_length(sequences, tbptt_length, batch_size):
    model = new_model()
    with torch.no_grad():
        log_likelihoods = torch.cat([model.log_likelihood(sequence[None])[0] for sequence in sequences])
    assert validation_loss(model, sequences, batch_size, tbptt_length) == pytest.approx(
        -float(log_likelihoods.mean()), abs=1e-4
    )


@pytest.mark.parametrize("pad_value", [128, (128, 7), 0.0])
def test_the_mask_is_false_for_padding(sequences, pad_value):
    if isinstance(pad_value, tuple):
        sequences = [torch.stack([sequence, sequence], dim=-1) for sequence in sequences]
    if isinstance(pad_value, float):
        sequences = [sequence / 150 for sequence in sequences]
    batch = collate(sequences, pad_value)
    assert batch.mask.sum(dim=1).tolist() == list(LENGTHS)
    assert batch.sequence.dtype == sequences[0].dtype
    assert (batch.sequence[~batch.mask] == torch.tensor(pad_value)).all()
    for row, sequence in zip(batch.sequence, sequences, strict=True):
        assert torch.equal(row[: len(sequence)], sequence)


class Recordings:
    """A dataset with a broken recording, which records the indices that were read."""

    def __init__(self, broken=None):
        self.broken, self.read = broken, []

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.read.append(index)
        if index == self.broken:
            raise OSError("the recording is gone")
        return torch.full((4,), index)


def test_a_batch_can_be_prefetched_and_is_read_once():
    recordings = Recordings()
    stream = DataStream(recordings, TrainingConfig(batch_size=2, tbptt_length=3), 128)  # two chunks per batch
    for count in range(1, 7):
        batch = next(stream)
        first = (count - 1) // 2 * 2
        assert batch.sequence[:, 0].tolist() == recordings.read[first : first + 2]
        stream.prefetch()
        assert len(recordings.read) == 2 * (count // 2 + 1)


def test_a_read_error_is_raised_at_the_step_that_needs_the_batch():
    order = [int(row[0]) for row in load_batch(Recordings(), TrainingConfig(batch_size=6), 0)]
    stream = DataStream(Recordings(broken=order[3]), TrainingConfig(batch_size=2), 128)
    assert next(stream).sequence[:, 0].tolist() == order[:2]
    stream.prefetch()  # raises nothing yet
    with pytest.raises(OSError, match="the recording is gone"):
        next(stream)


@pytest.mark.parametrize("pad_value", [128, (128, 3), 0.5])
def test_a_batch_can_be_padded_to_a_length(pad_value):
    pair = (2,) if isinstance(pad_value, tuple) else ()
    kind = torch.float if isinstance(pad_value, float) else torch.long
    sequences = [torch.ones(length, *pair, dtype=kind) for length in (3, 5)]
    short = collate(sequences, pad_value)
    batch = short.pad_to(7, pad_value)
    assert torch.equal(batch.sequence[:, :5], short.sequence)
    assert torch.equal(batch.mask[:, :5], short.mask)
    assert (batch.sequence[:, 5:] == torch.tensor(pad_value)).all()
    assert not batch.mask[:, 5:].any()
    assert batch.sequence.shape[1] == batch.mask.shape[1] == 7
    assert short.pad_to(5, pad_value) is short


def test_labels_stay_with_their_sequences(sequences):
    data = [(sequence, len(sequence)) for sequence in sequences]
    stream = DataStream(data, TrainingConfig(batch_size=3), 128)
    for _ in range(5):
        batch = next(stream)
        assert torch.equal(batch.label, batch.mask.sum(dim=1))
    assert next(DataStream(sequences, TrainingConfig(batch_size=3), 128)).label is None


def test_a_mixture_of_sequences_with_labels_and_without_is_refused(sequences):
    data = [sequences[0], (sequences[1], 1), (sequences[2], 0), sequences[3]]
    with pytest.raises(ValueError, match=r"only pairs \(sequence, label\), got 2 pairs among 4 items"):
        next(DataStream(data, TrainingConfig(batch_size=4), 128))
    with pytest.raises(ValueError, match="got 2 pairs among 4 items"):
        validation_loss(new_model(), data)


def test_a_model_of_codes_refuses_labels(sequences):
    data = [(sequence, 1) for sequence in sequences]
    with pytest.raises(ValueError, match="label must be None"):
        train(new_model(), data, TrainingConfig(steps=1), progress=False)
    with pytest.raises(ValueError, match="label must be None"):
        validation_loss(new_model(), data)


def test_empty_validation_data_are_refused():
    with pytest.raises(ValueError, match="data must hold at least one sequence"):
        validation_loss(new_model(), [])


def test_an_example_that_is_not_a_tensor_is_refused():
    with (
        without_shape_checks(),
        pytest.raises(ValueError, match=r"data must hold tensors, .* got an item of ndarray"),
    ):
        train(new_model(), np.zeros((4, 20), dtype=np.int64), TrainingConfig(steps=1), progress=False)


def test_codes_out_of_range_are_refused_in_training_and_validation(sequences):
    bad = [*sequences, torch.full((20,), 256)]
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.255, got values from \d+ to 256"):
        train(new_model(), bad, TrainingConfig(steps=1, batch_size=5), progress=False)
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.255"):
        validation_loss(new_model(), bad)


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        ([], "valid must hold at least one sequence, got none"),
        (
            [torch.zeros(9, dtype=torch.long), torch.full((9,), 256)],
            r"valid\[1\]: codes must lie in 0\.\.255",
        ),
        ([(torch.zeros(9, dtype=torch.long), 1)], r"valid\[0\]: label must be None"),
    ],
)
def test_validation_data_are_checked_before_the_first_step(sequences, valid, message):
    def never(step, loss):
        raise AssertionError

    with pytest.raises(ValueError, match=message):
        train(new_model(), sequences, TrainingConfig(steps=3), valid=valid, on_step=never, progress=False)
