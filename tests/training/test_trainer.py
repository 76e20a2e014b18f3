"""The training loop lowers the loss, is reproducible, keeps the best weights, resumes, and reports errors."""

import math
import re

import pytest
import torch
from torch import nn

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.checks import check_parameters
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.ssm.s4 import StateSpace
from sashimi_lib.training.checkpoint import load_checkpoint, save_checkpoint
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.ema import new_ema_model
from sashimi_lib.training.finite_checks import check_gradients
from sashimi_lib.training.optimizer import parameter_groups
from sashimi_lib.training.trainer import train
from sashimi_lib.training.validation import validation_loss
from tests.training.backbones import DropoutEmbedding


@pytest.fixture
def data():
    t = torch.arange(64)
    phases = torch.arange(6)[:, None]
    return MuLaw().encode(0.5 * torch.sin(0.3 * (t + 2 * phases)))


def new_model():
    torch.manual_seed(1)
    return AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)))


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture
def noise():
    """Validation data unlike ``data``: their loss soon rises."""
    return torch.randint(256, (3, 50))


CONFIG = TrainingConfig(steps=12, batch_size=4, warmup=2, decay="cosine", checkpoint_every=5)


def test_training_lowers_the_loss(data):
    bits = train(new_model(), data, TrainingConfig(steps=40, batch_size=6, lr=0.02), progress=False).loss
    assert bits[0] > 6
    assert min(bits[-5:]) < bits[0] - 2


def test_training_is_reproducible(data):
    assert train(new_model(), data, CONFIG, progress=False) == train(
        new_model(), data, CONFIG, progress=False
    )


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(data, tmp_path):
    whole, path = new_model(), tmp_path / "run.pt"
    log = train(whole, data, CONFIG, progress=False)

    class Interrupted(Exception):
        pass

    def stop(step, bits):
        if step == 7:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(new_model(), data, CONFIG, path, on_step=stop, progress=False)
    resumed = new_model()
    assert train(resumed, data, CONFIG, path, progress=False) == log
    assert equal(whole, resumed)


def test_frozen_parameters_of_state_spaces_stay_and_others_change(data):
    model = new_model()
    ssm = next(m for m in model.modules() if isinstance(m, StateSpace))
    before = {name: p.clone() for name, p in ssm.named_parameters()}
    train(model, data, CONFIG, progress=False)
    changed = {name for name, p in ssm.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"Lambda", "C", "D"}


def test_state_spaces_have_their_own_learning_rate_and_no_weight_decay():
    slow = parameter_groups(new_model(), TrainingConfig(lr=0.004, ssm_lr=0.001, weight_decay=0.1))[1]
    assert (slow["full_lr"], slow["weight_decay"]) == (0.001, 0.0)
    assert len(slow["params"]) == 3  # Lambda of each of the three S4 layers; p, B and log_dt are frozen


class Leaky(nn.Module):
    """A module from outside the library."""

    def __init__(self):
        super().__init__()
        self.gain, self.decay = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    def ssm_parameters(self):
        return [self.decay]


def test_any_module_may_have_ssm_parameters():
    model = nn.ModuleDict({"leaky": Leaky(), "ssm_parameters": nn.Linear(2, 2)})
    fast, slow = parameter_groups(model, TrainingConfig(lr=0.004, ssm_lr=0.001, weight_decay=0.1))
    assert [id(p) for p in slow["params"]] == [id(model["leaky"].decay)]
    assert (slow["full_lr"], slow["weight_decay"]) == (0.001, 0.0)
    assert len(fast["params"]) == 3


def test_divergence_names_the_parameter(data):
    model = new_model()
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"head\.bias"):
        train(model, data, CONFIG, progress=False)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 truncated"])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.pt"):
        load_checkpoint(path)


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


def test_a_checkpoint_never_runs_code(tmp_path, capsys):
    torch.save({"model": Hostile()}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"run\.pt"):
        load_checkpoint(tmp_path / "run.pt")
    assert "executed" not in capsys.readouterr().out


def test_an_interrupted_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"step": 1})

    def fail(content, target):
        target.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}


def test_empty_data_is_refused():
    with pytest.raises(ValueError, match="data"):
        train(new_model(), torch.empty(0, 64, dtype=torch.long), CONFIG, progress=False)


def test_the_best_weights_are_loaded_and_saved(data, noise, tmp_path):
    config = TrainingConfig(steps=12, batch_size=4, lr=0.02, valid_every=3)
    model, short = new_model(), new_model()
    history = train(model, data, config, tmp_path / "run.pt", valid=noise, progress=False)
    assert [steps for steps, _ in history.valid] == [3, 6, 9, 12]
    steps, bits = history.best
    assert steps < 12
    assert validation_loss(model, noise) == pytest.approx(bits, abs=1e-6)
    train(short, data, TrainingConfig(steps=steps, batch_size=4, lr=0.02), progress=False)
    assert equal(model, short)
    best = load_checkpoint(tmp_path / "run.best.pt")
    assert (best["steps"], best["loss"]) == (steps, bits)
    again = new_model()
    again.load_state_dict(best["model"])
    assert equal(again, model)


def test_training_stops_early_and_stays_stopped(data, noise, tmp_path):
    config = TrainingConfig(steps=100, batch_size=4, lr=0.02, valid_every=2, early_stopping_patience=3)
    history = train(new_model(), data, config, tmp_path / "run.pt", valid=noise, progress=False)
    assert len(history.loss) == history.best[0] + 6 < 100
    resumed = new_model()
    assert train(resumed, data, config, tmp_path / "run.pt", valid=noise, progress=False) == history
    assert validation_loss(resumed, noise) == pytest.approx(history.best[1], abs=1e-6)


def test_the_moving_average_is_validated_and_returned(data):
    config = TrainingConfig(steps=15, batch_size=4, ema=0.8)
    model, weights = new_model(), []
    train(model, data, config, progress=False, on_step=lambda *_: weights.append(model.head.bias.clone()))
    expected = weights[0]
    for n, weight in enumerate(weights[1:], start=1):
        d = min(0.8, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * weight
    assert torch.allclose(model.head.bias, expected, atol=1e-6)
    assert not torch.allclose(model.head.bias, weights[-1], atol=1e-3)
    validated = train(new_model(), data, config, valid=data, progress=False)
    assert validated.valid[-1][1] == pytest.approx(validation_loss(model, data), abs=1e-6)


def test_a_decay_of_one_is_refused():
    with pytest.raises(ValueError, match="decay must lie between 0 and 1, got 1"):
        new_ema_model(nn.Linear(1, 1), 1.0)


@pytest.mark.parametrize(
    ("setting", "size"),
    [
        ({"clip_value": 1e-3}, lambda grads: max(float(g.abs().max()) for g in grads)),
        ({"clip_norm": 1e-3}, lambda grads: math.sqrt(sum(float(g.square().sum()) for g in grads))),
    ],
)
def test_gradients_are_clipped(data, setting, size):
    model, plain = new_model(), new_model()
    train(model, data, TrainingConfig(steps=1, **setting), progress=False)
    train(plain, data, TrainingConfig(steps=1), progress=False)
    assert size([p.grad for p in model.parameters() if p.grad is not None]) == pytest.approx(1e-3, rel=1e-3)
    assert size([p.grad for p in plain.parameters() if p.grad is not None]) > 1e-2


def test_random_numbers_of_a_resumed_run_are_the_same(data, tmp_path):
    def with_dropout():
        model = new_model()
        model.embedding = DropoutEmbedding(model.embedding)
        return model

    def stop(step, bits):
        if step == 5:
            raise KeyboardInterrupt

    whole = train(with_dropout(), data, CONFIG, progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(with_dropout(), data, CONFIG, tmp_path / "run.pt", on_step=stop, progress=False)
    assert train(with_dropout(), data, CONFIG, tmp_path / "run.pt", progress=False) == whole


def test_a_gradient_that_is_not_finite_stops_training_before_the_update(data, tmp_path):
    model, path = new_model(), tmp_path / "run.pt"

    def spoil(step, bits):
        if step == 6:
            model.backbone.norm.weight.register_hook(lambda grad: grad / 0)

    config = TrainingConfig(steps=12, checkpoint_every=1)
    with pytest.raises(FloatingPointError, match=r"gradient of backbone\.norm\.weight is not finite"):
        train(model, data, config, path, on_step=spoil, progress=False)
    content = load_checkpoint(path)
    assert len(content["history"]["loss"]) == 7
    assert all(x.isfinite().all() for x in content["model"].values())
    assert train(new_model(), data, config, path, progress=False) == train(
        new_model(), data, config, progress=False
    )


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path):
    model, path = new_model(), tmp_path / "run.pt"

    def overwrite(grad):
        with torch.no_grad():
            model.head.weight.fill_(math.inf)

    def spoil(step, bits):
        if step == 3:
            model.head.bias.register_hook(overwrite)

    with pytest.raises(FloatingPointError, match=r"head\.weight"):
        train(model, data, TrainingConfig(steps=9, checkpoint_every=1), path, on_step=spoil, progress=False)
    assert len(load_checkpoint(path)["history"]["loss"]) == 4


def test_finite_gradients_pass_the_check_in_any_precision():
    model = nn.Linear(2, 2).double()
    loss = model(torch.ones(1, 2).double()).sum().float()
    loss.backward()
    check_gradients(model, loss)
    check_parameters(model)
    model.weight.grad.fill_(1e200)  # finite, though their norm is not
    with pytest.raises(FloatingPointError, match="gradient of weight"):
        check_gradients(model, loss)


@pytest.mark.parametrize("setting", [{"decay": "plateau"}, {"early_stopping_patience": 2}])
def test_schedules_that_need_validation_are_refused_without(data, setting):
    with pytest.raises(ValueError, match="valid must be given"):
        train(new_model(), data, TrainingConfig(**setting), progress=False)


def test_progress_shows_loss_and_speed(data, capsys):
    train(new_model(), data, TrainingConfig(steps=2), valid=data)
    shown = capsys.readouterr().err
    assert re.search(r"loss \d+\.\d{3}, validation \d+\.\d{3}, [\d,]+ samples/s", shown)
    assert "2/2" in shown
