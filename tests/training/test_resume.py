"""Runs resume with more steps or other resumable settings, and never with other data or in use elsewhere."""

import copy
import dataclasses
import itertools
import math
import os
import re
import subprocess
import sys
import time

import pytest
import torch

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training import optimizer
from sashimi_lib.training.checkpoint import best_of, load_checkpoint, previous_of, save_checkpoint
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.logger import MultiLogger
from sashimi_lib.training.optimizer import load_optimizer_state, new_optimizer, parameter_groups
from sashimi_lib.training.train_state import History, TrainState
from sashimi_lib.training.trainer import train

CONFIG = TrainingConfig(steps=3, batch_size=2, lr=0.02)


def new_model(d_model=4):
    torch.manual_seed(1)
    return AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=d_model, n_layers=1)))


@pytest.fixture
def data():
    return MuLaw().encode(0.5 * torch.sin(0.3 * (torch.arange(24) + 2 * torch.arange(5)[:, None])))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pt"


def run(config, data, checkpoint=None, **settings):
    model = new_model()
    return train(model, data, config, checkpoint, progress=False, **settings), model


def assert_same_weights(a, b):
    assert all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


# More steps and other settings


@pytest.mark.parametrize("settings", [{}, {"warmup": 4}, {"tbptt_length": 10}, {"ema": 0.8}], ids=str)
def test_a_finished_run_resumes_with_more_steps_as_if_started_with_them(data, path, settings):
    short = dataclasses.replace(CONFIG, **settings)
    longer = dataclasses.replace(short, steps=7, checkpoint_every=2)
    run(short, data, path)
    history, model = run(longer, data, path)
    whole, expected = run(longer, data)
    assert history == whole
    assert_same_weights(model, expected)


def test_a_plateau_ignores_the_validation_at_the_end_of_a_shorter_run(data, path):
    noise = torch.randint(256, (3, 20))
    short = dataclasses.replace(
        CONFIG, decay="plateau", plateau_factor=0.5, plateau_patience=0, valid_every=2
    )
    longer = dataclasses.replace(short, steps=9)
    run(short, data, path, valid=noise)  # validates after 2 steps and at its end
    history, _ = run(longer, data, path, valid=noise)
    whole, _ = run(longer, data, valid=noise)
    assert history.loss == whole.loss
    assert [entry for entry in history.valid if entry[0] != 3] == whole.valid


def test_a_longer_cosine_schedule_resumes_with_a_warning(data, path):
    cosine = dataclasses.replace(CONFIG, decay="cosine")
    run(cosine, data, path)
    rates = []

    class Rates(MultiLogger):
        def log_step(self, step, **scalars):
            rates.append(scalars["learning_rate"])

    longer = dataclasses.replace(cosine, steps=6)
    with pytest.warns(
        UserWarning, match=r"was a run of 3 steps, now of 6: after step 3 the learning rate .* from 50%"
    ):
        history, _ = run(longer, data, path, logger=Rates())
    assert rates == pytest.approx([0.02 * longer.rate(step) for step in (3, 4, 5)])
    assert len(history.loss) == 6
    settings = load_checkpoint(path)["settings"]
    assert [(first, config["steps"]) for first, config in settings] == [(0, 3), (3, 6)]


def test_the_seconds_of_all_steps_add_up_over_resumed_runs(data, path, monkeypatch):
    clock = itertools.count()  # a second from each reading to the next
    monkeypatch.setattr("sashimi_lib.training.trainer.time.process_time", lambda: float(next(clock)))
    assert run(CONFIG, data, path, valid=data)[0].seconds == 3
    assert run(dataclasses.replace(CONFIG, steps=7), data, path, valid=data)[0].seconds == 7
    assert load_checkpoint(path)["history"]["seconds"] == 7
    best = load_checkpoint(best_of(path))
    assert best["seconds"] == best["steps"]


def test_a_finished_run_with_fewer_steps_is_unchanged(data, path, recwarn):
    cosine = dataclasses.replace(CONFIG, decay="cosine")
    done, _ = run(cosine, data, path)
    assert run(dataclasses.replace(cosine, steps=2), data, path)[0] == done
    assert not recwarn.list


def test_resumable_settings_may_change(data, path):
    noise = torch.randint(256, (3, 20))
    run(CONFIG, data, path)
    other = dataclasses.replace(CONFIG, steps=6, checkpoint_every=1, valid_every=2, early_stopping_patience=9)
    history, _ = run(other, data, path, valid=noise)
    assert history.loss == run(dataclasses.replace(CONFIG, steps=6), data)[0].loss
    assert [steps for steps, _ in history.valid] == [4, 6]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"lr": 0.01, "steps": 9}, "lr was 0.02 and is now 0.01"),
        ({"batch_size": 3, "seed": 1}, "batch_size was 2 and is now 3; seed was 0 and is now 1"),
        ({"precision": "bfloat16"}, "precision was float32 and is now bfloat16"),
        ({"decay": "cosine"}, "decay was constant and is now cosine"),
    ],
    ids=str,
)
def test_other_settings_may_not_change_and_are_named(data, path, other, named):
    run(CONFIG, data, path)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} belongs to another run: {named}$"):
        run(dataclasses.replace(CONFIG, **other), data, path)


def test_valid_every_may_not_change_for_a_plateau_schedule(data, path):
    config = dataclasses.replace(CONFIG, decay="plateau", valid_every=2)
    run(config, data, path, valid=data)
    with pytest.raises(ValueError, match=r"valid_every was 2 and is now 3$"):
        run(dataclasses.replace(config, valid_every=3), data, path, valid=data)


def downgrade(path, **missing):
    """Rewrite a checkpoint in the format of an older version."""
    content = load_checkpoint(path)
    config = content.pop("settings")[-1][1]
    for name in ("id", "data", "valid"):
        content.pop(name)
    content["history"]["loss"] = content["history"]["loss"].tolist()
    content["history"].pop("seconds")
    content["config"] = {name: value for name, value in config.items() if name not in missing}
    save_checkpoint(path, content)


def test_a_checkpoint_of_an_older_version_resumes(data, path):
    run(CONFIG, data, path)
    downgrade(path, ema=0.0, early_stopping_patience=None)
    history, _ = run(dataclasses.replace(CONFIG, steps=7), data, path)
    assert history == run(dataclasses.replace(CONFIG, steps=7), data)[0]
    assert math.isnan(history.seconds)
    downgrade(path, ema=0.0)
    with pytest.raises(ValueError, match=r"ema was 0\.0 and is now 0\.5"):
        run(dataclasses.replace(CONFIG, ema=0.5), data, path)


# Other data, another model


def test_other_data_are_refused(data, path):
    run(CONFIG, data, path)
    name = re.escape(str(path))
    with pytest.raises(
        ValueError, match=f"{name} belongs to another run: data had 5 sequences and now has 4"
    ):
        run(CONFIG, data[:4], path)
    with pytest.raises(ValueError, match=f"{name} belongs to another run: data had other sequences"):
        run(CONFIG, data.flip(1), path)
    one_code = data.clone()
    one_code[3, 7] += 1
    with pytest.raises(ValueError, match="data had other sequences"):
        run(CONFIG, one_code, path)
    assert run(CONFIG, list(data), path)[0] == run(CONFIG, data)[0]  # the same in another container


def test_other_validation_data_are_refused(data, path):
    run(CONFIG, data, path, valid=data)
    with pytest.raises(ValueError, match="valid had 5 sequences and now has 2"):
        run(dataclasses.replace(CONFIG, steps=5), data, path, valid=data[:2])


class RandomDataset:
    """A dataset with a generator of its own, which the run cannot seed."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.randint(256, (12,), generator=self.generator)


def test_random_data_are_compared_by_their_length(path):
    run(CONFIG, RandomDataset(), path)
    assert load_checkpoint(path)["data"] == {"sequences": 4, "digest": None}
    assert len(run(dataclasses.replace(CONFIG, steps=5), RandomDataset(), path)[0].loss) == 5


def test_a_model_of_other_layer_sizes_is_refused(data, path):
    run(CONFIG, data, path)
    with pytest.raises(
        ValueError, match=r"of other layer sizes: embedding\.weight is \(256, 4\) in the file, \(256, 6\)"
    ):
        train(new_model(6), data, CONFIG, path, progress=False)


# Names and locks


def test_runs_whose_paths_differ_in_the_suffix_share_no_files(data, tmp_path):
    one, two = tmp_path / "exp.1", tmp_path / "exp.2"
    run(CONFIG, data, one, valid=data)
    run(CONFIG, data[:4], two, valid=data)
    assert run(CONFIG, data[:4])[0].loss == load_checkpoint(two)["history"]["loss"].tolist()
    ids = {name: load_checkpoint(best_of(path))["id"] for name, path in (("one", one), ("two", two))}
    assert ids == {"one": load_checkpoint(one)["id"], "two": load_checkpoint(two)["id"]}
    assert ids["one"] != ids["two"]
    names = {
        function(path).name for function in (previous_of, best_of) for path in (one, two, tmp_path / "exp")
    }
    assert len(names) == 6


HOLD = """
import sys
from sashimi_lib.storage.atomic import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_exits(data, path, root):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is in use: another process"):
            run(CONFIG, data, path)
        run(CONFIG, data, path.with_name("beside.pt"))
    finally:
        other.kill()  # releases its lock
        other.communicate()
    partial = path.with_name("run.pt.0123.partial")
    partial.write_bytes(b"half")
    run(CONFIG, data, path)
    assert not partial.exists()


# Files


def test_a_long_history_is_saved_fast(data, path):
    long = History([float(step) for step in range(600_000)], [(1_000, 0.5)])
    state = TrainState(new_model(), data, CONFIG)
    state.history = long
    started = time.process_time()
    state.save(path)
    took = time.process_time() - started
    started = time.process_time()
    torch.save(copy.deepcopy(long.loss), path.with_name("as_a_list.pt"))
    assert took < (time.process_time() - started) / 4
    assert path.stat().st_size < 2 * 8 * 600_000
    assert History.from_state_dict(load_checkpoint(path)["history"]) == long


def test_the_best_weights_are_copied_to_the_cpu(data):
    state = TrainState(new_model(), data, CONFIG)
    state.record_validation(3.0)
    for name, x in state.eval_model.state_dict().items():
        assert state.best[name].device.type == "cpu"
        assert state.best[name].data_ptr() != x.data_ptr()


# The optimizer


@pytest.mark.parametrize("then", [False, True])
def test_a_resumed_run_is_fused_according_to_its_device(data, path, monkeypatch, then):
    monkeypatch.setattr(optimizer, "fused", lambda device: not then)
    run(CONFIG, data, path)
    assert {group["fused"] for group in load_checkpoint(path)["optimizer"]["param_groups"]} == {not then}
    monkeypatch.setattr(optimizer, "fused", lambda device: then)
    state = TrainState(new_model(), data, dataclasses.replace(CONFIG, steps=6))
    state.load(path)
    assert {group["fused"] for group in state.optimizer.param_groups} == {then}
    history, _ = run(dataclasses.replace(CONFIG, steps=6), data, path)
    assert history.loss == pytest.approx(run(dataclasses.replace(CONFIG, steps=6), data)[0].loss, rel=1e-5)


def test_the_optimizer_has_two_parameter_groups():
    optimizer_of_model = new_optimizer(new_model(), TrainingConfig(lr=0.5, ssm_lr=0.25, weight_decay=0.1))
    assert type(optimizer_of_model) is torch.optim.AdamW
    assert [(group["weight_decay"], group["full_lr"]) for group in optimizer_of_model.param_groups] == [
        (0.1, 0.5),
        (0.0, 0.25),
    ]
    wanted = parameter_groups(new_model(), TrainingConfig())
    assert [len(group["params"]) for group in optimizer_of_model.param_groups] == [
        len(group["params"]) for group in wanted
    ]


def test_moments_of_other_parameters_are_refused():
    few = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    optimizer_of_model = new_optimizer(new_model(), TrainingConfig())
    with pytest.raises(
        ValueError, match=r"optimizer has groups of \[\d+, 3\] parameters, the checkpoint of \[1\]"
    ):
        load_optimizer_state(optimizer_of_model, few.state_dict())
