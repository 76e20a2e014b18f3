"""Training in two processes equals training in one, and runs resume with another number of processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sashimi_lib.training.distributed import SINGLE_PROCESS, DistributedContext, init_distributed
from tests.training import distributed_worker as worker

# All tests share one run of the worker.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("torchrun")]

SMALL = 1e-10  # relative tolerance: another order of sums in float64


@pytest.fixture(scope="module")
def folder(tmp_path_factory, root):
    """The folder with the results of two processes."""
    path = tmp_path_factory.mktemp("distributed")
    worker.run(
        "sashimi_tbptt_accumulation", SINGLE_PROCESS, path / "resumed" / "run.pt", until=worker.STOP_AT
    )
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(Path(worker.__file__)), str(path)],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path


def results(folder, name):
    return [torch.load(folder / f"{name}.{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_same(a, b):
    assert a["loss"] == pytest.approx(b["loss"], rel=SMALL)
    assert [steps for steps, _ in a["valid"]] == [steps for steps, _ in b["valid"]]
    assert [loss for _, loss in a["valid"]] == pytest.approx([loss for _, loss in b["valid"]], rel=SMALL)
    for name, x in a["model"].items():
        assert (x - b["model"][name]).norm() <= 1e-8 * x.norm(), (
            name
        )  # Adam amplifies rounding of small gradients


@pytest.mark.parametrize("name", worker.EXPERIMENTS)
def test_two_processes_train_as_one(folder, name):
    one, two = worker.run(name), results(folder, name)
    for process in two:
        assert_same(process, one)
    assert two[0]["loss"] == two[1]["loss"]
    assert all(torch.equal(x, two[1]["model"][key]) for key, x in two[0]["model"].items())


def test_two_processes_resume_the_run_of_one(folder):
    whole = worker.run("sashimi_tbptt_accumulation")
    for process in results(folder, "resumed"):
        assert process["steps"] == [5, 6]
        assert_same(process, whole)


def test_one_process_resumes_the_run_of_two(folder):
    resumed = worker.run("samplernn_tbptt", SINGLE_PROCESS, folder / "stopped" / "run.pt")
    assert resumed["steps"] == [5, 6]
    assert_same(resumed, worker.run("samplernn_tbptt"))


def test_processes_load_disjoint_shards_of_each_batch(folder):
    first, second = results(folder, "loaded")
    alone = worker.loaded_sequences(SINGLE_PROCESS)
    assert [a + b for a, b in zip(first, second, strict=True)] == alone
    assert all(len(rows) == 1 for rows in first)  # of three
    assert all(len(rows) == 2 for rows in second)


@pytest.mark.parametrize("name", ["diffusion", "diffusion_accumulation"])
def test_noise_is_sampled_for_the_whole_batch(folder, name):
    one = worker.diffusion()
    for process in results(folder, name):
        assert_same(process, one)


def test_unused_parameters_are_searched_only_in_models_that_skip_some(folder):
    for found in results(folder, "finds_unused"):
        assert {name for name, finds in found.items() if finds} == {
            "sashimi_tbptt_accumulation", "samplernn_tbptt", "wavenet_checkpointing", "wavenet_accumulation",
        }  # fmt: skip


def test_a_batch_needs_a_sequence_per_process(folder):
    for message in results(folder, "error"):
        assert message == "batch_size must be at least 2, a sequence for each process, got 1"


def test_a_single_process_needs_no_communication():
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
from sashimi_lib.training.distributed import init_distributed

try:
    with init_distributed(torch.device("cpu")) as distributed:
        distributed.all_reduce_sum(torch.ones(1))
        if not distributed.is_main_process:
            raise ValueError("in one process")
        {waits}
        print("got through", file=sys.stderr)
except ValueError:
    time.sleep(8)  # until then torchrun does not see the failure, and does not kill the other process
    raise
"""


@pytest.mark.parametrize("waits", ["distributed.all_reduce_sum(torch.ones(1))", "time.sleep(6)"])
def test_if_one_process_fails_the_others_exit_and_print_its_error(tmp_path, root, waits):
    script = tmp_path / "failing.py"
    script.write_text(FAILING.replace("{waits}", waits))
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--redirects", "3", "--log-dir", str(tmp_path / "logs"), str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    (stderr,) = (path.read_text() for path in (tmp_path / "logs").rglob("0/stderr.log"))
    assert "sashimi_lib: process 1 ended by ValueError: in one process" in stderr
    assert "got through" not in stderr
