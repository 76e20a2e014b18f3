"""Two processes learn what one learns, each from sequences of its own, and take up each other's runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sashimi_lib.training.team import ALONE, Team, joined
from tests.training import teamwork

# One process starts the two that all look at.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("torchrun")]

SMALL = 1e-10  # relative: sums in another order, in float64


@pytest.fixture(scope="module")
def folder(tmp_path_factory, root):
    """What two processes left."""
    path = tmp_path_factory.mktemp("team")
    teamwork.run("sashimi_in_pieces_and_parts", ALONE, path / "taken_up" / "run.pt", until=teamwork.STOPPED)
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(Path(teamwork.__file__)), str(path)],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path


def left(folder, name):
    return [torch.load(folder / f"{name}.{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_same(a, b):
    assert a["loss"] == pytest.approx(b["loss"], rel=SMALL)
    assert [steps for steps, _ in a["valid"]] == [steps for steps, _ in b["valid"]]
    assert [loss for _, loss in a["valid"]] == pytest.approx([loss for _, loss in b["valid"]], rel=SMALL)
    for name, x in a["model"].items():
        assert (x - b["model"][name]).norm() <= 1e-8 * x.norm(), name  # Adam takes small gradients for large


@pytest.mark.parametrize("name", teamwork.EXPERIMENTS)
def test_two_learn_what_one_learns(folder, name):
    one, two = teamwork.run(name), left(folder, name)
    for process in two:
        assert_same(process, one)
    assert two[0]["loss"] == two[1]["loss"]
    assert all(torch.equal(x, two[1]["model"][key]) for key, x in two[0]["model"].items())


def test_two_take_up_the_run_of_one(folder):
    whole = teamwork.run("sashimi_in_pieces_and_parts")
    for process in left(folder, "taken_up"):
        assert process["steps"] == [5, 6]
        assert_same(process, whole)


def test_one_takes_up_the_run_of_two(folder):
    resumed = teamwork.run("samplernn_in_pieces", ALONE, folder / "left" / "run.pt")
    assert resumed["steps"] == [5, 6]
    assert_same(resumed, teamwork.run("samplernn_in_pieces"))


def test_no_sequence_is_heard_twice_and_none_is_left_out(folder):
    first, second = left(folder, "heard")
    alone = teamwork.heard(ALONE)
    assert [a + b for a, b in zip(first, second, strict=True)] == alone
    assert all(len(rows) == 1 for rows in first)  # of three
    assert all(len(rows) == 2 for rows in second)


def test_noise_is_each_process_s_own_and_the_model_everyone_s(folder):
    first, second = left(folder, "diffusion")
    assert first["loss"] == second["loss"]
    assert all(torch.equal(x, second["model"][name]) for name, x in first["model"].items())
    assert all(0 < loss < 5 for loss in first["loss"])


def test_a_batch_has_a_sequence_for_each(folder):
    for said in left(folder, "refused"):
        assert said == "batch_size must be at least 2, a sequence for each process, got 1"


def test_one_alone_asks_nobody():
    with joined(torch.device("cpu")) as team:
        assert team == ALONE == Team(0, 1)
    x = torch.arange(3)
    assert team.total(x) is x
    assert team.most(4) == 4
    assert team.gathered((x, ())) == (x, ())
    assert team.leads
    assert not Team(1, 2).leads


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="--nproc-per-node must be at most 2"), joined(torch.device("cuda")):
        pass
