"""Parts of a GPU run that fail, hang or are stopped do not affect others, and training resumes."""

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sashimi_lib.models import SaShiMiConfig
from tools import gpu, gpu_train
from tools.gpu_processes import Part
from tools.pack_codes import bundled_set, pack
from tools.train_pretrained import BROAD, TASKS, checkpoint_path

NOTHING = "pass"


def part(name, code, **settings):
    """A part that runs some Python, which knows ``out``, and the seconds it may take."""
    begin = (
        "import os, signal, subprocess, sys, time; from pathlib import Path; out = Path(os.environ['OUT'])\n"
    )
    return Part(
        name, lambda s: [sys.executable, "-c", f"{begin}seconds = {s}\n{textwrap.dedent(code)}"], **settings
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run parts, and return the exit code and ``status.json``."""

    def run_parts(*parts, minutes=1.0):
        monkeypatch.setattr(gpu, "parts", lambda options: parts)
        monkeypatch.setattr(gpu, "probe", lambda options: {"device": "GPU, by name", "torch": "2"})
        monkeypatch.setenv("OUT", str(tmp_path))
        monkeypatch.setattr("sys.argv", ["gpu.py", "--out", str(tmp_path), "--minutes", str(minutes)])
        code = gpu.main()
        return code, json.loads((tmp_path / "status.json").read_text())

    return run_parts


def outcomes(status):
    return {name: entry["outcome"] for name, entry in status["parts"].items()}


def alive(pid):
    """Whether there is such a process; one that was killed has some seconds to be gone."""
    status = Path(f"/proc/{pid}/status")
    for _ in range(50):
        if not status.exists() or "Z (zombie)" in status.read_text():
            return False
        time.sleep(0.1)
    return True


def test_a_part_that_crashes_does_not_stop_the_others(run, tmp_path):
    code, status = run(
        part("first", "print('made'); (out / 'kept').write_text('it'); sys.exit('no luck')"),
        part("second", NOTHING),
    )
    assert code == 1
    assert outcomes(status) == {"first": "failed", "second": "passed"}
    assert status["parts"]["first"]["code"] == 1
    assert (tmp_path / "logs" / "first.log").read_text().splitlines() == ["made", "no luck"]
    assert (tmp_path / "kept").read_text() == "it"


@pytest.mark.slow
@pytest.mark.parametrize("ignores", [False, True], ids=["ends at SIGTERM", "ignores SIGTERM"])
def test_a_part_that_hangs_is_ended_with_all_it_started(run, tmp_path, ignores):
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if ignores else ""
    code, status = run(
        part(
            "hangs",
            f"""
            {ignore}
            child = subprocess.Popen(["sleep", "600"])
            (out / "pids").write_text(f"{{os.getpid()}} {{child.pid}}")
            time.sleep(600)
            """,
            share=1.0,
            cap=4.0,
        ),
        part("next", NOTHING),
    )
    assert outcomes(status) == {"hangs": "out of time", "next": "passed"}
    assert code == 1
    assert 4 <= status["parts"]["hangs"]["seconds"] < 15
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    assert not any(map(alive, pids))


def test_what_a_part_leaves_running_ends_with_it(run, tmp_path):
    run(part("leaves", "p = subprocess.Popen(['sleep', '600']); (out / 'pid').write_text(str(p.pid))"))
    assert not alive((tmp_path / "pid").read_text())


def test_status_is_written_after_every_part(run, tmp_path):
    copy = "(out / 'seen').write_bytes((out / 'status.json').read_bytes())"
    _, status = run(part("first", NOTHING), part("second", copy))
    seen = json.loads((tmp_path / "seen").read_text())
    assert outcomes(seen) == {"first": "passed", "second": "running"}
    assert outcomes(status) == {"first": "passed", "second": "passed"}


def test_a_stop_signal_keeps_what_is_there(run, tmp_path):
    code, status = run(
        part("first", "(out / 'kept').write_text('it')"),
        part(
            "second",
            """
            def end(*_):
                (out / "ended").write_text("well")
                sys.exit()
            signal.signal(signal.SIGTERM, end)
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(600)
            """,
        ),
        part("third", "(out / 'third').touch()"),
    )
    assert code == 128 + 15
    assert outcomes(status) == {
        "first": "passed", "second": "stopped", "third": "not started: interrupted"
    }  # fmt: skip
    assert (tmp_path / "ended").read_text() == "well"
    assert not (tmp_path / "third").exists()


def test_a_part_whose_packages_are_missing_is_skipped(run, capsys):
    _, status = run(
        part("first", NOTHING, needs=("json", "no_such_package", "nor_this_one")), part("second", NOTHING)
    )
    assert outcomes(status) == {
        "first": "skipped: no_such_package, nor_this_one missing", "second": "passed"
    }  # fmt: skip
    assert "missing: " in capsys.readouterr().out


@pytest.mark.slow
def test_it_ends_before_its_minutes_are_over_and_training_gets_the_remaining_time(run, tmp_path):
    began = time.monotonic()
    _, status = run(
        part("quick", NOTHING, share=0.5),
        part("training", "(out / 'seconds').write_text(str(seconds)); time.sleep(600)"),
        minutes=0.25,
    )
    assert time.monotonic() - began < 15
    assert outcomes(status) == {"quick": "passed", "training": "out of time"}
    used = status["parts"]["quick"]["seconds"]
    assert float((tmp_path / "seconds").read_text()) == pytest.approx(
        15 - gpu.SHUTDOWN - gpu.GRACE - used, abs=1
    )


@pytest.mark.slow
def test_some_of_the_time_is_reserved_for_training(run):
    _, status = run(part("greedy", "time.sleep(600)", share=1.0), part("training", NOTHING), minutes=0.3)
    assert status["parts"]["greedy"]["limit"] == pytest.approx(0.8 * 18 - gpu.SHUTDOWN - gpu.GRACE, abs=1)
    assert outcomes(status) == {"greedy": "out of time", "training": "passed"}


def test_without_time_nothing_is_started(run):
    assert outcomes(run(part("late", NOTHING), minutes=0.01)[1]) == {"late": "not started: no time left"}


def test_the_parts_are_in_order_and_fit_into_the_time(tmp_path):
    for device in ("cuda", "cpu"):
        options = gpu.argparse.Namespace(device=device, out=tmp_path, recipe="piano", codes=gpu.CODES)
        parts = gpu.parts(options)
        assert [each.name for each in parts] == [
            "tests", "same_training", "throughput", "profile", "generation", "training"
        ]  # fmt: skip
        assert sum(each.share for each in parts[:-1]) <= 0.85
        assert parts[-1].share is None
        for each in parts:
            command = each.command(30.0)
            modules = [module for flag, module in itertools.pairwise(command) if flag == "-m"]
            assert importlib.util.find_spec(modules[0]) is not None
            assert ("--quick" in command) == (device == "cpu" and each.name not in ("tests", "training"))


@pytest.mark.slow
def test_no_part_needs_packages_that_it_does_not_name():
    """A GPU machine may have few packages."""
    assert {"torch", "numpy", "soundfile"} <= set(gpu.library_packages())
    others = [
        *gpu.UNUSED,
        *gpu.TESTING,
        "matplotlib",
        "ipywidgets",
        "IPython",
        "PIL",
        "numba",
        "librosa",
        "pooch",
        "tensorboard",
        "psutil",
    ]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({others}))  # to import any of them fails
import benchmarks.numerics.same_training, benchmarks.speed.throughput, benchmarks.speed.profiled
import benchmarks.speed.graphs, tools.gpu_train
"""
    subprocess.run([sys.executable, "-c", code], cwd=gpu.ROOT, check=True)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "tools.gpu: PyTorch finds no GPU; use --device cpu to try a small version"),
        (["--recipe", "violin"], "tools.gpu: recipe must be one of digits_isotropic, .*, got violin"),
        (["--recipe", "tunes"], r"tools.gpu: codes must contain the set tunes, got piano: .*"),
    ],
    ids=["no GPU", "no such recipe", "no such codes"],
)
def test_errors_are_reported_in_one_line_at_the_start(tmp_path, options, line):
    command = [sys.executable, "-m", "tools.gpu", "--out", tmp_path, "--codes", tmp_path / "none"]
    done = subprocess.run([*command, *options], cwd=gpu.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(line + "\n", done.stderr)


# Training


TINY = replace(
    TASKS["piano"],
    config=SaShiMiConfig(d_model=4, n_layers=1),
    stages=((32, replace(BROAD, steps=30, batch_size=2, valid_every=30)),) * 2,
)


def trained(folder, seconds, codes):
    packed = gpu_train.packed_for(TINY, codes)
    short = {split: {"a": next(iter(files.values()))[:400]} for split, files in packed.recordings.items()}
    packed = replace(packed, recordings=short)
    return gpu_train.train_until("tiny", TINY, packed, folder, "cpu", time.monotonic() + seconds)


@pytest.mark.slow
def test_training_resumes_from_its_checkpoint_through_all_stages(tmp_path, capsys):
    runs, none = tmp_path / "training", tmp_path / "none"
    first = trained(runs, 0.0, none)  # no time: it ends after a step
    assert "no packed codes in" in capsys.readouterr().out
    assert (first["steps_of_session"], first["best"]) == (1, None)
    second = trained(runs, 0.0, none)
    assert (second["stages"][0]["steps"], second["steps_of_session"]) == (2, 1)
    third = trained(runs, 20.0, none)
    assert [stage["steps"] for stage in third["stages"]][:2] == [30, 30]
    assert third["stages"][0]["validations"][0]["steps"] == 30
    assert third["best"]["stage"] >= 1
    assert checkpoint_path("tiny", 1, runs).exists()


def test_it_trains_on_packed_codes(tmp_path, capsys):
    pack(tmp_path / "codes", bundled_set())
    figures = trained(tmp_path / "training", 0.0, tmp_path / "codes")
    assert "no packed codes" not in capsys.readouterr().out
    assert figures["credit"] == bundled_set()["piano"].credit


def test_a_set_that_is_not_in_the_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="codes must contain the set tunes, got piano"):
        gpu_train.select_task("tunes", tmp_path / "none")


def test_the_librarys_recipes_on_8_bits_can_be_trained_and_no_others():
    tasks = gpu_train.tasks()
    assert {"piano", "tunes", "youtubemix_sashimi_8"} <= tasks.keys()
    assert not {"beethoven_sashimi_8", "wavernn_896", "digits", "wavernn", "sc09_diffwave"} & tasks.keys()


def test_checkpoints_of_an_earlier_run_are_copied_only_where_there_are_none(tmp_path):
    earlier, out = tmp_path / "earlier", tmp_path / "out"
    out.mkdir()
    with pytest.raises(ValueError, match="--resume must be the folder of an earlier run"):
        gpu.copy_checkpoints(earlier, out)
    (earlier / "training").mkdir(parents=True)
    (earlier / "training" / "piano-0.pt").write_text("old")
    gpu.copy_checkpoints(earlier, out)
    (out / "training" / "piano-0.pt").write_text("new")
    gpu.copy_checkpoints(earlier, out)
    assert (out / "training" / "piano-0.pt").read_text() == "new"


# The whole


@pytest.mark.slow
def test_a_small_version_of_everything(tmp_path):
    command = [sys.executable, "-m", "tools.gpu"]
    began = time.monotonic()
    options = ["--device", "cpu", "--minutes", "2", "--out", tmp_path, "--codes", tmp_path / "none"]
    done = subprocess.run([*command, *options], cwd=gpu.ROOT, capture_output=True, text=True, check=False)
    assert time.monotonic() - began < 125, done.stdout
    status = json.loads((tmp_path / "status.json").read_text())
    logs = {path.stem: path.read_text()[-2000:] for path in (tmp_path / "logs").iterdir()}
    assert logs.keys() == status["parts"].keys()
    assert set(outcomes(status).values()) <= {"passed", "out of time"}, logs  # the machine may be busy
    assert (tmp_path / "training" / "piano-0.pt").exists(), logs
    first = json.loads((tmp_path / "results" / "training_quick.json").read_text())
    again = [
        sys.executable,
        "-m",
        "tools.gpu_train",
        "piano",
        "--out",
        tmp_path,
        "--seconds",
        "1",
        "--codes",
        "none",
    ]
    environment = {**os.environ, "SASHIMI_RESULTS": str(tmp_path / "results")}
    subprocess.run(again, cwd=gpu.ROOT, env=environment, check=True, capture_output=True)
    second = json.loads((tmp_path / "results" / "training_quick.json").read_text())
    steps = [result["figures"]["stages"][-1]["steps"] for result in (first, second)]
    assert steps[1] == steps[0] + 1
    adopted = subprocess.run(
        [*command, "--adopt", tmp_path], cwd=gpu.ROOT, capture_output=True, text=True, check=False
    )
    assert adopted.returncode == 1
    assert "rejected training_quick.json: not measured on a GPU" in adopted.stdout
    assert "rejected piano-0.pt: not trained on a GPU" in adopted.stdout
    assert "adopted" not in adopted.stdout
