"""Two processes learn what one learns, each from sequences of its own, and take up each other's runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sashimi_lib.training.distributed import SINGLE_PROCESS, DistributedContext, init_distributed
from tests.training import teamwork

# One process starts the two that all look at.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("torchrun")]

SMALL = 1e-10  # relative: sums in another order, in float64


@pytest.fixture(scope="module")
def folder(tmp_path_factory, root):
    """What two processes left."""
    path = tmp_path_factory.mktemp("distributed")
    teamwork.run(
        "sashimi_in_pieces_and_parts", SINGLE_PROCESS, path / "taken_up" / "run.pt", until=teamwork.STOPPED
    )
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
    resumed = teamwork.run("samplernn_in_pieces", SINGLE_PROCESS, folder / "left" / "run.pt")
    assert resumed["steps"] == [5, 6]
    assert_same(resumed, teamwork.run("samplernn_in_pieces"))


def test_no_sequence_is_heard_twice_and_none_is_left_out(folder):
    first, second = left(folder, "heard")
    alone = teamwork.heard(SINGLE_PROCESS)
    assert [a + b for a, b in zip(first, second, strict=True)] == alone
    assert all(len(rows) == 1 for rows in first)  # of three
    assert all(len(rows) == 2 for rows in second)


@pytest.mark.parametrize("name", ["diffusion", "diffusion_in_parts"])
def test_noise_is_that_of_the_whole_batch(folder, name):
    one = teamwork.diffusion()
    for process in left(folder, name):
        assert_same(process, one)


def test_only_models_that_leave_parameters_out_are_searched_for_them(folder):
    for found in left(folder, "searched"):
        assert {name for name, searched in found.items() if searched} == {
            "sashimi_in_pieces_and_parts", "samplernn_in_pieces", "wavenet_computed_anew", "wavenet_in_parts",
        }  # fmt: skip


def test_a_batch_has_a_sequence_for_each(folder):
    for said in left(folder, "refused"):
        assert said == "batch_size must be at least 2, a sequence for each process, got 1"


def test_one_alone_asks_nobody():
    with init_distributed(torch.device("cpu")) as distributed:
        assert distributed == SINGLE_PROCESS == DistributedContext(0, 1)
    x = torch.arange(3)
    assert distributed.all_reduce_sum(x) is x
    assert distributed.all_reduce_max(4) == 4
    assert distributed.all_gather_state((x, ())) == (x, ())
    assert distributed.is_main_process
    assert not DistributedContext(1, 2).is_main_process


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with (
        pytest.raises(ValueError, match="--nproc-per-node must be at most 2"),
        init_distributed(torch.device("cuda")),
    ):
        pass


FAILING = """
import sys, time
import torch
from sashimi_lib.training.distributed import joined

try:
    with joined(torch.device("cpu")) as team:
        team.all_reduce_sum(torch.ones(1))
        if not team.leads:
            raise ValueError("of one process alone")
        {waits}
        print("got through", file=sys.stderr)
except ValueError:
    time.sleep(8)  # torchrun, which would kill the other one, does not know yet
    raise
"""


@pytest.mark.parametrize("waits", ["team.all_reduce_sum(torch.ones(1))", "time.sleep(6)"])
def test_where_one_fails_the_others_end_at_once_and_say_why(tmp_path, root, waits):
    script = tmp_path / "failing.py"
    script.write_text(FAILING.replace("{waits}", waits))
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--redirects", "3", "--log-dir", str(tmp_path / "logs"), str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    (said,) = (path.read_text() for path in (tmp_path / "logs").rglob("0/stderr.log"))
    assert "sashimi_lib: process 1 ended by ValueError: of one process alone" in said
    assert "got through" not in said
