"""Everything that needs a GPU, in one command of ten minutes.

    python -m tools.gpu --minutes 10 --out runs/gpu       or: make gpu
    python -m tools.gpu --minutes 10 --out runs/gpu       again: training resumes
    python -m tools.gpu --adopt runs/gpu                  on the machine with the book: adopts the results

It needs no network, and no data but one file of packed codes (`tools.pack_codes`); without that it trains on
the bundled minute of piano. The parts run in this order, each in a subprocess with a time limit:

    tests          tests marked ``cuda``
    same_training  training agrees on CPU and GPU; validation sees the current weights
    throughput     training steps of the paper's models, in every precision, compiled and not
    profile        time of a training step by operator, and its timeline
    generation     CUDA graphs against the eager step, batch sizes 1 to 512
    training       the remaining time: a recipe, resumed from its checkpoint if there is one

A part that fails or hangs does not stop the others; time that it leaves unused goes to training. Everything
is written as it comes, below ``--out``: ``status.json`` after each part, ``logs``, ``results``, ``training``
(checkpoints). The command ends before its minutes are over, also after Ctrl-C or SIGTERM, and keeps what is
finished. Missing packages are listed at the start, and parts that need them are skipped. ``--device cpu``
runs a small version of everything, to see that it works; its results cannot be adopted.

Only Python's standard library is imported here, so that it starts on any machine with Python.
"""

import argparse
import datetime
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.gpu_processes import GRACE, Part, StopSignal, run

ROOT = Path(__file__).resolve().parents[1]
CODES = ROOT / "runs" / "data" / "codes.safetensors"
UNUSED = {"tyro"}  # by the command line alone
TESTING = ("pytest", "hypothesis", "beartype")
MIN_SECONDS = 3.0  # with less time, a part is not started
INNER_LIMIT = 0.5  # share of a benchmark's limit after which it starts no new job
TRAINING_SHARE = 0.2  # share of the total time that is reserved for training
SHUTDOWN = 2.0  # seconds that this process needs after its last part
SAVING = 10.0  # seconds that training needs after its last step
PROBE = """
import json, sys, torch
from pathlib import Path
cuda = torch.cuda.is_available()
found = {"torch": torch.__version__, "name": torch.cuda.get_device_name() if cuda else None}
try:
    from tools import gpu_train
    gpu_train.select_task(sys.argv[1], Path(sys.argv[2]))
except ImportError:
    pass  # missing packages are listed elsewhere
except ValueError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


def parts(options: argparse.Namespace) -> list[Part]:
    """The parts in order. On a CPU, where everything starts slowly, small ones get larger shares."""
    quick = options.device == "cpu"

    def module(name: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", name, *arguments]

    def benchmark(name: str, *arguments: str) -> list[str]:
        return module(f"benchmarks.{name}", *arguments, *(["--quick"] if quick else []))

    def limited(name: str, seconds: float) -> list[str]:
        return benchmark(name, "--minutes", f"{INNER_LIMIT * seconds / 60:.3f}")

    trace = str(options.out / "trace.json.gz")
    train = ["tools.gpu_train", options.recipe, "--codes", str(options.codes), "--out", str(options.out)]
    needs = library_packages()
    return [
        Part("tests", lambda s: test_command(quick), (*needs, *TESTING), 0.2 if quick else 0.15, 180),
        Part(
            "same_training", lambda s: benchmark("numerics.same_training"), needs, 0.15 if quick else 0.1, 90
        ),
        Part("throughput", lambda s: limited("speed.throughput", s), needs, 0.3 if quick else 0.35, 360),
        Part("profile", lambda s: benchmark("speed.profiled", "--trace", trace), needs, 0.1, 90),
        Part("generation", lambda s: limited("speed.graphs", s), needs, 0.1, 180),
        Part("training", lambda s: module(*train, "--seconds", f"{max(0.0, s - SAVING):.1f}"), needs),
    ]


def library_packages() -> tuple[str, ...]:
    """The dependencies of the library that training and generation use."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^\w-]", entry, maxsplit=1)[0] for entry in project["dependencies"]]
    return tuple(name for name in names if name not in UNUSED)


def test_command(quick: bool) -> list[str]:
    """The command for the tests marked ``cuda``; with ``quick`` for a few of them on a CPU."""
    marked = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.cuda" in path.read_text()]
    files = [ROOT / "tests" / "test_cuda.py"] if quick else marked
    cpu = ["--tests-of-cuda-on", "cpu", "-k", "of_a_cpu"] if quick else []
    selection = ["-m", "cuda", *cpu, "-p", "no:cacheprovider"]
    # The project's other pytest options need plugins that a GPU machine may lack.
    pytest_options = ["-o", "addopts=--import-mode=importlib", "--durations=10", "-v"]
    return [sys.executable, "-m", "pytest", *pytest_options, *selection, *map(str, files)]


def environment(options: argparse.Namespace) -> dict[str, str]:
    """Environment of every part: this copy of the packages, results below ``--out``, no GPU with ``cpu``."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    results = str(options.out / "results")
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "SASHIMI_RESULTS": results, **hidden}


def missing_packages(names: Sequence[str]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def probe(options: argparse.Namespace) -> dict[str, Any]:
    """The PyTorch version and the device, found in a subprocess so that the GPU is released again.

    ValueError if there is no GPU, no such recipe, or no codes for it: better now than at the end.
    """
    command = [sys.executable, "-c", PROBE, options.recipe, str(options.codes)]
    answer = subprocess.run(
        command, env=environment(options), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise ValueError(f"PyTorch cannot be imported: {(answer.stderr.splitlines() or ['no message'])[-1]}")
    *messages, last = answer.stdout.splitlines()
    found = json.loads(last)
    if "error" in found:
        raise ValueError(found["error"])
    if options.device == "cuda" and found["name"] is None:
        raise ValueError("PyTorch finds no GPU; use --device cpu to try a small version")
    for line in messages:
        print(line)
    name = found["name"]
    return {"device": f"GPU, {name}" if name else "CPU, small version", "torch": found["torch"]}


def write_status(out: Path, status: dict[str, Any]) -> None:
    """Write ``status.json`` atomically, so that a half-written file is never read."""
    partial = out / "status.json.partial"
    partial.write_text(json.dumps(status, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(out / "status.json")


def copy_checkpoints(earlier: Path, out: Path) -> None:
    """Copy the checkpoints of an earlier run, unless ``out`` has its own."""
    if not (earlier / "training").is_dir():
        raise ValueError(
            f"--resume must be the folder of an earlier run, with a folder training, got {earlier}"
        )
    if not (out / "training").exists():
        shutil.copytree(earlier / "training", out / "training")


def run_all(options: argparse.Namespace, start: float) -> int:
    """Run all parts within the time. Returns an exit code: 0 if all passed, 1 if one did not, or 128 plus the
    number of the signal that stopped the run."""
    options.out.mkdir(parents=True, exist_ok=True)
    total, env = 60 * options.minutes, environment(options)
    status: dict[str, Any] = {
        **probe(options),
        "recipe": options.recipe,
        "minutes": options.minutes,
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "missing": missing_packages((*library_packages(), *TESTING)),
        "parts": {},
    }
    print(
        f"{status['device']}; torch {status['torch']}; missing: {', '.join(status['missing']) or 'nothing'}"
    )
    if options.resume:
        copy_checkpoints(options.resume, options.out)
    with StopSignal() as stop:
        for part in parts(options):
            remaining = total - (time.monotonic() - start) - SHUTDOWN - GRACE
            limit, missing = part.limit(total, remaining, TRAINING_SHARE), missing_packages(part.needs)
            if stop():
                entry: dict[str, Any] = {"outcome": "not started: interrupted"}
            elif missing:
                entry = {"outcome": f"skipped: {', '.join(missing)} missing"}
            elif limit < MIN_SECONDS:
                entry = {"outcome": "not started: no time left"}
            else:
                status["parts"][part.name] = {"outcome": "running"}
                write_status(options.out, status)
                log = options.out / "logs" / f"{part.name}.log"
                entry = vars(run(part.command(limit), log, limit, env, ROOT, stop)) | {
                    "limit": round(limit, 1)
                }
            status["parts"][part.name] = entry
            write_status(options.out, status)
            print(part.name, entry["outcome"], f"{entry.get('seconds', 0):.0f} s", sep=", ", flush=True)
        failed = any(entry["outcome"] != "passed" for entry in status["parts"].values())
        return stop.exit_code or int(failed)


def main() -> int:
    """Run all parts, or adopt the results of a run."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="total time (default: 10)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "gpu", help="output folder (default: runs/gpu)"
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a small version of everything"
    )
    parser.add_argument("--recipe", default="piano", help="recipe to train (default: piano)")
    parser.add_argument(
        "--codes", type=Path, default=CODES, help="packed codes (default: runs/data/codes.safetensors)"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FOLDER", help="continue training from the checkpoints of this run"
    )
    parser.add_argument(
        "--adopt", type=Path, metavar="FOLDER", help="copy the results of a run into the book; runs nothing"
    )
    options = parser.parse_args()
    options.out, options.codes = options.out.resolve(), options.codes.resolve()
    if not options.minutes > 0:
        parser.error(f"--minutes must be above 0, got {options.minutes}")
    try:
        return adopt_results(options.adopt) if options.adopt else run_all(options, start)
    except ValueError as error:
        print(f"tools.gpu: {error}", file=sys.stderr)
        return 2


def adopt_results(folder: Path) -> int:
    """Adopt the results of a run and print which. Returns exit code 1 if some were rejected, or none
    found."""
    from tools.gpu_adopt import adopt

    accepted, rejected = adopt(folder)
    for name in accepted:
        print(f"adopted {name}")
    for name, reason in rejected.items():
        print(f"rejected {name}: {reason}")
    return int(not accepted or bool(rejected))


if __name__ == "__main__":
    sys.exit(main())
