"""The command in several processes, as torchrun starts them: it loses the same, stops, and starts again."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from sashimi_lib import audio
from sashimi_lib.cli import main
from sashimi_lib.pretrained import load
from sashimi_lib.training.checkpoint import load_checkpoint

# One after the other: each is several processes.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("torchrun")]

RATE, STEPS = 4_000, 60
TRAIN = ["train", "my-wavs", "--data", "recordings", "--device", "cpu", "--length", "128"]
TRAIN += ["--model.d-model", "4", "--model.n-layers", "1", "--model.ssm.d-state", "4"]
TRAIN += ["--steps", str(STEPS), "--valid-every", "20", "--checkpoint-every", "1"]
TRAIN += ["--precision", "float32"]  # one process and two differ by rounding: little, in float32
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With four recordings, and the run of one process in ``alone``."""
    path = tmp_path_factory.mktemp("torchrun")
    (path / "recordings").mkdir()
    for number in range(4):
        tone = 0.3 * torch.sin(2 * math.pi * 100 * (1 + number) * torch.arange(2_000) / RATE)
        audio.write(path / f"recordings/{number}.wav", tone, RATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert main([*TRAIN, "--out", "alone"]) == 0
    return path


@pytest.fixture
def start(folder, root):
    """Start two processes that train; what is left of them is killed."""
    started = []

    def begin(out, *how):
        program = psutil.Popen(
            [*TOGETHER, *how, "-m", "sashimi_lib", *TRAIN, "--out", out], cwd=folder, text=True,
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        started.append(program)
        return program

    yield begin
    for program in started:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)


def steps_done(run):
    return len(load_checkpoint(run / "run.pt")["history"]["loss"]) if (run / "run.pt").exists() else 0


def wait_for_steps(program, run, steps):
    while program.poll() is None and steps_done(run) < steps:
        time.sleep(0.02)
    assert program.poll() is None


def assert_as_alone(run):
    found, wanted = (load_checkpoint(path / "run.pt")["history"] for path in (run, run.parent / "alone"))
    assert found["loss"].tolist() == pytest.approx(wanted["loss"].tolist(), rel=1e-5)
    for (steps, loss), (other_steps, other) in zip(found["valid"], wanted["valid"], strict=True):
        assert (steps, loss) == (other_steps, pytest.approx(other, rel=1e-5))
    model, alone = (load(str(path / "model.safetensors")) for path in (run, run.parent / "alone"))
    assert model.card.test_bits == pytest.approx(alone.card.test_bits, rel=1e-4)


def test_two_processes_lose_what_one_loses(folder, start):
    program = start("two")
    said, errors = program.communicate(timeout=120)
    assert program.returncode == 0, errors
    assert "parameters, 2 processes on cpu, 4,000 Hz" in said
    assert said.count("my-wavs: ") == said.count("test: ") == 1  # one speaks for all
    assert_as_alone(folder / "two")
    assert json.loads((folder / "two/run.json").read_text()) == json.loads(
        (folder / "alone/run.json").read_text()
    )


def test_told_to_stop_all_stop_at_one_step_and_one_process_goes_on(folder, start, monkeypatch):
    program = start("stopped")
    wait_for_steps(program, folder / "stopped", 3)
    program.send_signal(signal.SIGTERM)
    said, _ = program.communicate(timeout=60)
    assert program.returncode != 0
    done = steps_done(folder / "stopped")
    assert 3 <= done < STEPS
    assert f"stopped after {done} of {STEPS} steps; run the same command to resume" in said
    monkeypatch.chdir(folder)
    assert main([*TRAIN, "--out", "stopped"]) == 0
    assert_as_alone(folder / "stopped")


def test_a_killed_process_is_restarted_and_all_go_on_from_the_checkpoint(folder, start):
    program = start("restarted", "--max-restarts", "1")
    wait_for_steps(program, folder / "restarted", 3)
    workers = [child for child in program.children(recursive=True) if "sashimi_lib" in child.cmdline()]
    assert len(workers) == 2
    workers[-1].kill()
    said, errors = program.communicate(timeout=120)
    assert program.returncode == 0, errors
    assert "resuming from restarted/run.pt" in said
    assert_as_alone(folder / "restarted")
