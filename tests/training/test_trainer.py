"""The training loop learns, repeats itself, resumes to the bit, and says what went wrong."""

import pytest
import torch

from sashimi_lib.autoregressive import AudioLM
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.quantize import MuLaw
from sashimi_lib.ssm.s4 import StateSpace
from sashimi_lib.training.checkpoint import load_checkpoint, save_checkpoint
from sashimi_lib.training.trainer import TrainingConfig, batch, parameter_groups, train


@pytest.fixture
def data():
    t = torch.arange(64)
    phases = torch.arange(6)[:, None]
    return MuLaw().encode(0.5 * torch.sin(0.3 * (t + 2 * phases)))


def new_model():
    torch.manual_seed(1)
    return AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)))


CONFIG = TrainingConfig(steps=12, batch_size=4, warmup=2, decay="cosine", checkpoint_every=5)


def test_training_lowers_the_bits(data):
    bits = train(new_model(), data, TrainingConfig(steps=60, batch_size=6, lr=0.01), progress=False)
    assert bits[0] > 6
    assert min(bits[-5:]) < bits[0] - 2


def test_the_same_seed_trains_the_same_model(data):
    assert train(new_model(), data, CONFIG, progress=False) == train(
        new_model(), data, CONFIG, progress=False
    )


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(data, tmp_path):
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
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_run_is_refused(data, tmp_path):
    train(new_model(), data, CONFIG, tmp_path / "run.pt", progress=False)
    with pytest.raises(ValueError, match="same config"):
        train(new_model(), data, TrainingConfig(steps=99), tmp_path / "run.pt", progress=False)


def test_frozen_dynamics_stay_and_trained_ones_move(data):
    model = new_model()
    ssm = next(m for m in model.modules() if isinstance(m, StateSpace))
    before = {name: p.clone() for name, p in ssm.named_parameters()}
    train(model, data, CONFIG, progress=False)
    moved = {name for name, p in ssm.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"Lambda", "C", "D"}


def test_state_spaces_train_slowly_and_without_decay():
    slow = parameter_groups(new_model(), TrainingConfig(lr=0.004, ssm_lr=0.001, weight_decay=0.1))[1]
    assert (slow["full_lr"], slow["weight_decay"]) == (0.001, 0.0)
    assert len(slow["params"]) == 3  # Lambda of each of the three S4 layers; p, B and log_dt are frozen


def test_every_sequence_comes_once_an_epoch(data):
    config = TrainingConfig(batch_size=2)
    seen = torch.cat([batch(data, config, step) for step in range(3)])
    assert torch.equal(seen.unique(dim=0), data.unique(dim=0))


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
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}


@pytest.mark.parametrize("setting", [{"steps": 0}, {"batch_size": 0}, {"decay": "linear"}])
def test_impossible_settings_are_refused_by_name(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        TrainingConfig(**setting)


def test_empty_data_is_refused():
    with pytest.raises(ValueError, match="data"):
        train(new_model(), torch.empty(0, 64, dtype=torch.long), CONFIG, progress=False)
