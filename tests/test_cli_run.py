"""Runs of ``sashimi train``: made longer, begun from a model, two in one folder, refused before a step."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sashimi_lib import audio
from sashimi_lib.cli import main
from sashimi_lib.cli import train as training
from sashimi_lib.cli.device import check_compiler
from sashimi_lib.cli.run_folder import save_settings
from sashimi_lib.pretrained import load
from sashimi_lib.storage.atomic import locked
from sashimi_lib.training.checkpoint import load_checkpoint, save_checkpoint

RATE = 4_000
SMALL = ["--model.d-model", "4", "--model.n-layers", "1", "--model.ssm.d-state", "4", "--length", "128"]
TRAIN = ["train", "my-wavs", "--data", "recordings", *SMALL, "--device", "cpu"]
MODEL = "runs/my-wavs/model.safetensors"


def record(folder, count=4, shift=0, seconds=0.5):
    Path(folder).mkdir()
    for number in range(count):
        t = torch.arange(round(seconds * RATE)) / RATE
        audio.write(
            f"{folder}/{number}.wav", 0.3 * torch.sin(2 * math.pi * 100 * (1 + number + shift) * t), RATE
        )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder where commands are run, with recordings."""
    monkeypatch.chdir(tmp_path)
    record("recordings", count=20)
    return tmp_path


def history(run="runs/my-wavs"):
    return load_checkpoint(f"{run}/run.pt")["history"]


def same(a, b):
    return all(torch.equal(x, b.model.state_dict()[name]) for name, x in a.model.state_dict().items())


@pytest.mark.slow
def test_a_run_is_made_longer_and_equals_one_that_was_long_from_the_start(folder, capsys):
    constant = [*TRAIN, "--decay", "constant"]
    assert main([*constant, "--steps", "3"]) == 0
    assert main([*constant, "--steps", "6", "--checkpoint-every", "2"]) == 0
    assert main([*constant, "--steps", "6", "--out", "whole"]) == 0
    assert torch.equal(history()["loss"], history("whole")["loss"])
    assert json.loads(Path("runs/my-wavs/run.json").read_text())["steps"] == 6
    assert load(MODEL).card.steps == load("whole/model.safetensors").card.steps


@pytest.mark.slow
def test_a_longer_cosine_is_trained_and_told_of_in_a_line(folder, capfd):
    assert main([*TRAIN, "--steps", "3"]) == 0
    capfd.readouterr()
    command = [sys.executable, "-m", "sashimi_lib", *TRAIN, "--steps", "6"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0
    assert done.stderr.startswith("sashimi: warning: runs/my-wavs/run.pt was a run of 3 steps, now of 6")
    assert done.stderr.count("\n") == 1
    assert len(history()["loss"]) == 6


def test_other_recordings_under_the_same_name_are_another_run(folder, capsys):
    assert main([*TRAIN, "--steps", "3"]) == 0
    Path("recordings").rename("before")
    record("recordings", count=20, shift=3)
    assert main([*TRAIN, "--steps", "3"]) == 1
    said = capsys.readouterr().err
    assert "runs/my-wavs/run.pt belongs to another run: data had other sequences" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_run_begins_from_a_trained_model(folder, capsys):
    assert main([*TRAIN, "--steps", "40", "--lr", "0.02"]) == 0
    record("others", count=20, shift=1)
    fine = [
        *TRAIN[:3],
        "others",
        *TRAIN[4:],
        "--from",
        MODEL,
        "--out",
        "fine",
        "--steps",
        "2",
        "--lr",
        "1e-9",
    ]
    fine += ["--ssm-lr", "1e-9", "--muon-lr", "1e-9"]
    assert main(fine) == 0
    checkpoint_exists, trained = load("fine/model.safetensors"), load(MODEL)
    for name, x in trained.model.state_dict().items():
        assert torch.allclose(checkpoint_exists.model.state_dict()[name], x, atol=1e-6), name
    assert "fine-tuned from my-wavs: recordings" in checkpoint_exists.card.data
    assert json.loads(Path("fine/run.json").read_text())["from"] == MODEL
    assert main(fine) == 0  # goes on, at its end
    capsys.readouterr()
    assert main([*fine[: fine.index("--from")], *fine[fine.index("--out") :]]) == 1
    assert f"from was {MODEL} and is now None" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "because"),
    [
        (["--model.d-model", "6"], "has another architecture: d_model is 4, this run has 6"),
        (
            ["--model.n-layers", "2", "--model.glu"],
            "n_layers is 1, this run has 2; glu is False, this run has True",
        ),
        (["--sample-rate", "2000"], "has a sample rate of 4000 Hz, this run of 2000: use --sample-rate 4000"),
    ],
)
def test_a_model_of_another_shape_is_no_beginning(folder, more, because, capsys):
    assert main([*TRAIN, "--steps", "1"]) == 0
    capsys.readouterr()
    assert main([*TRAIN, *more, "--from", MODEL, "--out", "fine"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"sashimi: --from {MODEL} ")
    assert because in said.err
    assert not Path("fine").exists()


def test_a_model_of_another_recipe_is_no_beginning(folder, capsys):
    assert (
        main(["train", "digits_diffwave", "--data", "recordings", "--from", "digits", "--length", "256"]) == 1
    )
    assert (
        "another architecture: kind is SaShiMiConfig, this run has DiffusionConfig\n"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_second_run_in_a_folder_is_told_in_a_line_and_spoils_nothing(folder):
    command = [sys.executable, "-m", "sashimi_lib", *TRAIN, "--steps", "3"]
    with locked("runs/my-wavs/run.pt"):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "sashimi: runs/my-wavs/run.pt is in use: another process is writing to it\n"
    assert {path.name for path in Path("runs/my-wavs").iterdir()} <= {".run.pt.lock"}
    assert main([*TRAIN, "--steps", "3"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_in_the_first_steps_keeps_what_is_there(folder, number):
    command = [sys.executable, "-m", "sashimi_lib", *TRAIN]  # 9,000 steps, a checkpoint every 100
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert "checkpoints in runs/my-wavs/run.pt" in program.stdout.readline()
    time.sleep(1)  # training has begun, or is about to
    program.send_signal(number)
    said, _ = program.communicate(timeout=60)
    assert program.returncode == 128 + number
    done = len(history()["loss"])
    assert f"stopped after {done:,} of 9,000 steps" in said
    assert load(MODEL).card.name == "my-wavs"


@pytest.mark.parametrize(
    ("more", "because"),
    [
        (["--valid-seconds", "inf"], "--valid-seconds must be above 0, and finite, got inf"),
        (["--valid-seconds", "nan"], "--valid-seconds must be above 0, and finite, got nan"),
        (["--valid-seconds", "-5"], "--valid-seconds must be above 0, and finite, got -5.0"),
        (["--valid-seconds", "0"], "--valid-seconds must be above 0, and finite, got 0.0"),
        (["--sample-rate", "0"], "--sample-rate must be at least 1, got 0"),
        (["--sample-rate", "-8000"], "--sample-rate must be at least 1, got -8000"),
        (["--length", "-1"], "--length must be at least 1 sample, got -1"),
        (["--from", "nobody"], "got 'nobody'"),
    ],
)
def test_a_number_that_means_nothing_is_named(folder, more, because, capsys):
    assert main([*TRAIN, *more]) == 1
    said = capsys.readouterr()
    assert because in said.err
    assert said.err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("more", "because"),
    [
        (["--warmup", "-1"], "warmup must be at least 0, got -1"),
        (["--warmup", "-5"], "warmup must be at least 0, got -5"),
        (["--weight-decay", "-1"], "weight_decay must be at least 0, got -1.0"),
        (["--plateau-patience", "-1"], "plateau_patience must be at least 0, got -1"),
        (["--lr", "nan"], "lr must be above 0, got nan"),
        (["--lr", "inf"], "lr must be above 0, and finite, got inf"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--model.d-model", "0"], "d_model must be at least 1, got 0"),
        (["--model.pool", "4", "-1"], "pool must be at least 2, got (4, -1)"),
        (["--model.ssm.d-state", "0"], "d_state must be at least 2, got 0"),
        (["--grad-accumulation", "0"], "grad_accumulation must be at least 1, got 0"),
    ],
)
def test_a_setting_out_of_range_is_wrong_usage(folder, more, because, capsys):
    with pytest.raises(SystemExit) as end:
        main([*TRAIN, *more])
    assert end.value.code == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert because in said


def test_compiling_without_a_compiler_is_said_before_anything_else(folder, monkeypatch, capsys):
    def fail(function):
        raise RuntimeError("No working C++ compiler found\nand a long story")

    monkeypatch.setattr(torch, "compile", fail)
    assert main([*TRAIN, "--compile"]) == 1
    assert capsys.readouterr().err == (
        "sashimi: --compile: torch.compile does not work on cpu: No working C++ compiler found\n"
    )
    monkeypatch.setattr(torch, "compile", lambda function: function)
    check_compiler(torch.device("cpu"))


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_all_parts_are_looked_at_before_the_first_step(folder, part, monkeypatch, capsys):
    prepare = training.prepare

    def without(command):
        inputs = prepare(command)
        return inputs._replace(parts={**inputs.parts, part: []})

    monkeypatch.setattr(training, "prepare", without)
    assert main([*TRAIN, "--steps", "3"]) == 1
    assert capsys.readouterr().err == f"sashimi: {part} must hold at least one sequence, got none\n"
    assert not Path("runs").exists()


def test_settings_are_kept_compared_and_replaced(tmp_path):
    checkpoint, settings = tmp_path / "run.pt", {"lr": 0.1, "steps": 3, "corpus": "folder"}
    save_settings(checkpoint, {**settings, "lr": 9.0})
    save_settings(checkpoint, settings)  # nothing was trained yet
    save_checkpoint(checkpoint, {})
    save_settings(checkpoint, {**settings, "steps": 5}, free=["steps"])
    assert json.loads((tmp_path / "run.json").read_text()) == {**settings, "steps": 5}
    save_settings(checkpoint, {**settings, "steps": 5, "seed": 0})  # what an older version did not write
    with pytest.raises(
        ValueError, match=r"lr was 0\.1 and is now 0\.2; corpus was folder and is now sc09\. Use"
    ):
        save_settings(checkpoint, {"lr": 0.2, "steps": 7, "corpus": "sc09"}, free=["steps"])
    assert json.loads((tmp_path / "run.json").read_text())["lr"] == 0.1


def test_a_path_with_two_spaces_is_said_as_it_is(tmp_path, capsys):
    assert main(["train", "my-wavs", "--data", str(tmp_path / "my  wavs")]) == 1
    assert f"{tmp_path}{os.sep}my  wavs must be a folder" in capsys.readouterr().err
