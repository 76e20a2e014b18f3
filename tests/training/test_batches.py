"""What steps train on: every sequence once an epoch, whole or in pieces, silence after it never scored."""

import numpy as np
import pytest
import torch

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.data.sequences import collate
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training.batches import DataStream, batch
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.trainer import train
from sashimi_lib.training.validation import validation_loss
from tests.awkward import as_a_reader

LENGTHS = (50, 33, 64, 17)


@pytest.fixture
def sequences():
    return [torch.randint(100, 150, (length,)) for length in LENGTHS]


def new_model():
    torch.manual_seed(1)
    return AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)))


def test_every_sequence_comes_once_an_epoch():
    data = torch.arange(6)[:, None]
    config = TrainingConfig(batch_size=2)
    epochs = [torch.cat([torch.stack(batch(data, config, 3 * n + i)) for i in range(3)]) for n in range(2)]
    assert all(torch.equal(epoch.sort(dim=0).values, data) for epoch in epochs)
    assert not torch.equal(*epochs)


def test_pieces_put_together_are_the_batches(sequences):
    data = [(sequence, number) for number, sequence in enumerate(sequences)]
    config = TrainingConfig(batch_size=2, tbptt_length=20)
    pieces, wholes = DataStream(data, config, 128), DataStream(data, TrainingConfig(batch_size=2), 128)
    for _ in range(4):
        whole = next(wholes)
        assert whole.is_start
        read = 0
        while read < whole.sequence.shape[1]:
            piece = next(pieces)
            assert piece.is_start == (read == 0)
            assert piece.mask.any()
            assert torch.equal(piece.sequence, whole.sequence[:, read : read + 20])
            assert torch.equal(piece.mask, whole.mask[:, read : read + 20])
            assert torch.equal(piece.label, whole.label)
            read += piece.sequence.shape[1]
        assert read == whole.sequence.shape[1]


def test_sequences_of_one_length_give_the_numbers_of_a_plain_mean():
    data = torch.randint(100, 150, (5, 100))
    config, plain = TrainingConfig(steps=1, batch_size=5), new_model()
    loss = -plain.log_likelihood(torch.stack(batch(data, config, 0))).mean()
    loss.backward()
    model, seen = new_model(), {}
    history = train(model, data, config, progress=False, on_step=lambda *_: seen.update(grads(model)))
    assert history.loss == [loss.item()]
    assert all(torch.equal(seen[name], grad) for name, grad in grads(plain).items())


def grads(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_silence_after_a_sequence_is_not_scored(sequences):
    model = new_model()
    history = train(model, sequences, TrainingConfig(steps=1, batch_size=4), progress=False)
    model = new_model()
    with torch.no_grad():
        each = torch.cat([model.log_likelihood(sequence[None])[0] for sequence in sequences])
    assert history.loss[0] == pytest.approx(-float(each.mean()), abs=1e-5)


def test_truncated_training_carries_the_state_and_cuts_the_gradient(sequences):
    data, config = torch.stack([s.repeat(4)[:60] for s in sequences]), TrainingConfig(batch_size=4)
    model, frozen = new_model(), {"lr": 1e-12, "ssm_lr": 1e-12}  # steps too small to matter
    pieces = train(
        model, data, TrainingConfig(steps=3, batch_size=4, tbptt_length=20, **frozen), progress=False
    ).loss
    with torch.no_grad():
        whole = -model.log_likelihood(torch.stack(batch(data, config, 0)))
    for n in range(3):
        assert pieces[n] == pytest.approx(float(whole[:, 20 * n : 20 * n + 20].mean()), abs=1e-4)
    alone = train(
        new_model(), data[:, 20:40], TrainingConfig(steps=1, batch_size=4, **frozen), progress=False
    )
    assert abs(alone.loss[0] - pieces[1]) > 1e-3  # the state does matter: from silence it costs otherwise


@pytest.mark.parametrize("tbptt_length", [None, 10, 64])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_validation_is_the_mean_over_all_samples_however_it_is_cut(sequences, tbptt_length, batch_size):
    model = new_model()
    with torch.no_grad():
        each = torch.cat([model.log_likelihood(sequence[None])[0] for sequence in sequences])
    assert validation_loss(model, sequences, batch_size, tbptt_length) == pytest.approx(
        -float(each.mean()), abs=1e-4
    )


@pytest.mark.parametrize("pad_value", [128, (128, 7), 0.0])
def test_padding_marks_what_is_real(sequences, pad_value):
    if isinstance(pad_value, tuple):
        sequences = [torch.stack([sequence, sequence], dim=-1) for sequence in sequences]
    if isinstance(pad_value, float):
        sequences = [sequence / 150 for sequence in sequences]
    piece = collate(sequences, pad_value)
    assert piece.mask.sum(dim=1).tolist() == list(LENGTHS)
    assert piece.sequence.dtype == sequences[0].dtype
    assert (piece.sequence[~piece.mask] == torch.tensor(pad_value)).all()
    for row, sequence in zip(piece.sequence, sequences, strict=True):
        assert torch.equal(row[: len(sequence)], sequence)


class Shelf:
    """Sequences of which one cannot be read, and which notes what was asked for."""

    def __init__(self, broken=None):
        self.broken, self.read = broken, []

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.read.append(index)
        if index == self.broken:
            raise OSError("the recording is gone")
        return torch.full((4,), index)


def test_the_next_batch_can_be_read_ahead_and_each_but_once():
    shelf = Shelf()
    pieces = DataStream(shelf, TrainingConfig(batch_size=2, tbptt_length=3), 128)  # two pieces of each batch
    for number in range(1, 7):
        heard = next(pieces)
        first = (number - 1) // 2 * 2
        assert heard.sequence[:, 0].tolist() == shelf.read[first : first + 2]
        pieces.read_ahead()
        assert len(shelf.read) == 2 * (number // 2 + 1)


def test_what_cannot_be_read_is_said_when_its_turn_comes():
    order = [int(row[0]) for row in batch(Shelf(), TrainingConfig(batch_size=6), 0)]
    pieces = DataStream(Shelf(broken=order[3]), TrainingConfig(batch_size=2), 128)
    assert next(pieces).sequence[:, 0].tolist() == order[:2]
    pieces.read_ahead()  # not yet
    with pytest.raises(OSError, match="the recording is gone"):
        next(pieces)


@pytest.mark.parametrize("pad_value", [128, (128, 3), 0.5])
def test_a_batch_gets_as_long_as_another(pad_value):
    pair = (2,) if isinstance(pad_value, tuple) else ()
    kind = torch.float if isinstance(pad_value, float) else torch.long
    sequences = [torch.ones(length, *pair, dtype=kind) for length in (3, 5)]
    short = collate(sequences, pad_value)
    piece = short.pad_to(7, pad_value)
    assert torch.equal(piece.sequence[:, :5], short.sequence)
    assert torch.equal(piece.mask[:, :5], short.mask)
    assert (piece.sequence[:, 5:] == torch.tensor(pad_value)).all()
    assert not piece.mask[:, 5:].any()
    assert piece.sequence.shape[1] == piece.mask.shape[1] == 7
    assert short.pad_to(5, pad_value) is short


def test_labels_stay_with_their_sequences(sequences):
    data = [(sequence, len(sequence)) for sequence in sequences]
    pieces = DataStream(data, TrainingConfig(batch_size=3), 128)
    for _ in range(5):
        piece = next(pieces)
        assert torch.equal(piece.label, piece.mask.sum(dim=1))
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


def test_nothing_held_out_is_refused():
    with pytest.raises(ValueError, match="data must hold at least one sequence"):
        validation_loss(new_model(), [])


def test_what_is_no_tensor_is_named():
    with as_a_reader(), pytest.raises(ValueError, match=r"data must hold tensors, .* got an item of ndarray"):
        train(new_model(), np.zeros((4, 20), dtype=np.int64), TrainingConfig(steps=1), progress=False)


def test_codes_that_are_none_are_named_before_a_step_and_where_they_are_validated(sequences):
    bad = [*sequences, torch.full((20,), 256)]
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.255, got values from \d+ to 256"):
        train(new_model(), bad, TrainingConfig(steps=1, batch_size=5), progress=False)
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.255"):
        validation_loss(new_model(), bad)


@pytest.mark.parametrize(
    ("valid", "because"),
    [
        ([], "valid must hold at least one sequence, got none"),
        (
            [torch.zeros(9, dtype=torch.long), torch.full((9,), 256)],
            r"valid\[1\]: codes must lie in 0\.\.255",
        ),
        ([(torch.zeros(9, dtype=torch.long), 1)], r"valid\[0\]: label must be None"),
    ],
)
def test_what_is_to_be_validated_is_looked_at_before_the_first_step(sequences, valid, because):
    def never(step, loss):
        raise AssertionError

    with pytest.raises(ValueError, match=because):
        train(new_model(), sequences, TrainingConfig(steps=3), valid=valid, on_step=never, progress=False)
