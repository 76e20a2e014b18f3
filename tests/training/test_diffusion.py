"""Training diffusion models: labels reach the model, padding is not counted, a run resumes bit for bit, and
validation uses the same noise every time."""

import pytest
import torch

from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.evaluation.losses import per_sequence_loss
from sashimi_lib.models import DiffWaveConfig
from sashimi_lib.models.trainable import Trainable
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.distributed import DistributedContext
from sashimi_lib.training.trainer import train
from sashimi_lib.training.validation import validation_loss

BACKBONE = DiffWaveConfig(d_residual=8, d_skip=8, n_layers=3, cycle=3, d_step=(8, 8, 8), n_classes=3)
CONFIG = TrainingConfig(steps=9, batch_size=3, lr=0.01, ema=0.9, valid_every=3, checkpoint_every=2)


def new_model():
    torch.manual_seed(1)
    return DiffusionModel(DiffusionConfig(BACKBONE))


@pytest.fixture
def words():
    """Waveforms of three classes and different lengths."""
    t = torch.arange(60)
    return [(0.5 * torch.sin(0.3 * (1 + n % 3) * t[: 60 - 4 * n]), n % 3) for n in range(7)]


class RecordingModel(Trainable):
    """A model that records its inputs, and whose loss of a sample is minus the sample."""

    pad_value = 0.25

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.inputs = []

    def loss(self, x, cache=None, label=None, noise=None):
        assert cache is None
        self.inputs.append((x.clone(), label))
        return -self.weight * x, None

    def initial_cache(self, batch_size):
        return None

    def sample_audio(self, length, seed=0):
        return torch.zeros(1, length)


def test_labels_reach_the_model_with_their_sequences(words):
    model = RecordingModel()
    train(model, words, TrainingConfig(steps=3, batch_size=2), valid=words, progress=False)
    count = 0
    for x, label in model.inputs:
        for row, class_index in zip(x, label.tolist(), strict=True):
            assert any(
                class_index == n
                and torch.equal(row[: len(word)], word)
                and bool((row[len(word) :] == 0.25).all())
                for word, n in words
            )
            count += 1
    assert count == 3 * 2 + len(words)


def test_padding_has_the_pad_value_and_is_not_counted(words):
    waveforms = [word for word, _ in words]
    samples = torch.cat(waveforms)
    history = train(RecordingModel(), waveforms, TrainingConfig(steps=1, batch_size=7), progress=False)
    assert history.loss[0] == pytest.approx(-float(samples.mean()), abs=1e-6)
    assert validation_loss(RecordingModel(), waveforms, batch_size=3) == pytest.approx(
        -float(samples.mean()), abs=1e-6
    )
    expected = torch.tensor([-float(waveform.mean()) for waveform in waveforms], dtype=torch.float64)
    assert torch.allclose(per_sequence_loss(RecordingModel(), waveforms, batch_size=3), expected, atol=1e-6)


def test_a_model_of_whole_sequences_is_trained_and_validated_on_whole_sequences(words):
    with pytest.raises(ValueError, match="tbptt_length must be None for a model of whole sequences, got 20"):
        train(new_model(), words, TrainingConfig(steps=1, tbptt_length=20), progress=False)
    model = RecordingModel()
    validation_loss(model, words, batch_size=7, tbptt_length=20)
    assert [x.shape for x, _ in model.inputs] == [(1, 60 - 4 * n) for n in range(7)]  # none is padded


def test_validation_does_not_depend_on_the_batch_size_or_the_number_of_processes(words):
    model = new_model().double()
    for parameter in model.parameters():  # the output of a new one is zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    words = [(word.double(), n) for word, n in [*words, *words]]
    alone = validation_loss(model, words, batch_size=1)
    assert validation_loss(model, words, batch_size=5) == pytest.approx(alone, rel=1e-10)
    sums = []  # the summands of two processes

    class OneOfTwo(DistributedContext):
        def all_reduce_sum(self, x):
            sums.append(x)
            return x

    for rank in (0, 1):
        validation_loss(model, words, batch_size=3, distributed=OneOfTwo(rank, 2))
    loss, samples = sum(sums)
    assert float(loss / samples) == pytest.approx(alone, rel=1e-10)


def test_validation_uses_the_same_noise_every_time(words):
    model = new_model()
    before = torch.get_rng_state()
    first = validation_loss(model, words)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert validation_loss(model, words) == first
    # The output is zero, so the error is the noise itself, of variance 1.
    assert first == pytest.approx(1, abs=0.2)


def test_training_lowers_the_loss(words):
    history = train(
        new_model(), words, TrainingConfig(steps=40, batch_size=7, lr=0.01), valid=words, progress=False
    )
    assert sum(history.loss[:5]) > sum(history.loss[-5:]) + 1
    assert history.valid[-1][1] < 0.8


def test_a_diffusion_run_resumes_bit_for_bit(words, tmp_path):
    def stop(step, loss):
        if step == 6:
            raise KeyboardInterrupt

    uninterrupted, resumed, path = new_model(), new_model(), tmp_path / "run.pt"
    history = train(uninterrupted, words, CONFIG, valid=words, progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(new_model(), words, CONFIG, path, valid=words, on_step=stop, progress=False)
    assert train(resumed, words, CONFIG, path, valid=words, progress=False) == history
    weights = resumed.state_dict()
    assert all(torch.equal(x, weights[name]) for name, x in uninterrupted.state_dict().items())


def test_validation_does_not_disturb_training(words):
    with_validation = train(new_model(), words, CONFIG, valid=words, progress=False)
    assert with_validation.loss == train(new_model(), words, CONFIG, progress=False).loss
