"""A run that is killed with SIGKILL, at any time or inside a write, resumes with equal results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training import kill_worker

# All tests share one run of the worker.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("killed")]

NAMES = list(kill_worker.CONFIGURATIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, root):
    path = tmp_path_factory.mktemp("killed")
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(kill_worker.__file__)), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    kills = dict(line.split() for line in done.stdout.splitlines())
    assert list(kills) == NAMES
    assert min(int(number) for number in kills.values()) >= 2
    return path


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the child processes, for the same order of sums
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_equals_an_uninterrupted_one_bit_for_bit(folder, one_thread, name):
    history, weights = kill_worker.run(name, None)
    resumed = json.loads((folder / name / "history.json").read_text())
    assert resumed["loss"] == history["loss"]
    assert [tuple(entry) for entry in resumed["valid"]] == history["valid"]
    weights_of_killed = torch.load(folder / name / "model.pt", weights_only=True)
    assert all(torch.equal(weights_of_killed[key], weights[key]) for key in weights)


def test_the_plateau_was_reached_and_the_best_was_not_the_last(folder):
    config = kill_worker.CONFIGURATIONS["average_and_plateau"]
    valid = json.loads((folder / "average_and_plateau" / "history.json").read_text())["valid"]
    assert config.rate(20, [bits for _, bits in valid[:5]]) < 1
    assert min(valid, key=lambda entry: entry[1]) != valid[-1]
