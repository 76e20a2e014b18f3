"""All that waits for a GPU, in one command: for whoever has one for ten minutes.

    python tools/gpu.py --minutes 10 --out runs/gpu       or: make gpu
    python tools/gpu.py --minutes 10 --out runs/gpu       once more: training goes on where it stopped
    python tools/gpu.py --adopt runs/gpu                  where the book is: takes the results over

It needs no network, and no data but one file of packed codes (`pack_codes`); without that it learns from the
minute of piano that ships. In this order, each in a process of its own with a limit of its own:

    tests          those that need CUDA (marked ``cuda``)
    same_training  a CPU and the GPU train the same steps; training validates the model that it trains
    throughput     steps of the paper's models, in every precision, compiled and not
    profile        where a step goes, kernel by kernel, and its timeline
    generation     CUDA graphs against the eager step, batch 1 to 512
    training       all the time that is left: a recipe, from its checkpoint if there is one

A part that fails, or hangs, costs itself alone; what it did not use of its time, training gets. Everything is
written as it comes, below ``--out``: ``status.json`` after each part, ``logs``, ``results``, ``training``
(checkpoints). The command ends before its minutes are over, also when it is told to stop (Ctrl-C, SIGTERM);
what is there then is kept. Packages that are missing are named at the start, and parts that need them are
left out. ``--device cpu`` runs all of it in miniature, to see that it works: nothing of that can be adopted.

This file imports nothing but Python's own library, so that it starts on any machine with a Python.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tools")]

from gpu_processes import GRACE, Part, Told, run

CODES = ROOT / "runs" / "data" / "codes.safetensors"
UNUSED = {"tyro"}  # by the command line alone
TESTING = ("pytest", "hypothesis", "beartype")
LEAST = 3.0  # seconds: for less, no part is begun
INNER = 0.5  # share of a benchmark's limit after which it begins nothing new
KEPT = 0.2  # share of all the time that is kept for training, whatever came before
END, WRITING = 2.0, 10.0  # seconds: of this process, after its parts; of the last part, after its last step
PROBE = """
import json, sys, torch
from pathlib import Path
sys.path.append("tools")
cuda = torch.cuda.is_available()
found = {"torch": torch.__version__, "name": torch.cuda.get_device_name() if cuda else None}
try:
    import gpu_train
    gpu_train.chosen(sys.argv[1], Path(sys.argv[2]))
except ImportError:
    pass  # what is missing is named elsewhere
except ValueError as error:
    found["wrong"] = str(error)
print(json.dumps(found))
"""


def parts(options: argparse.Namespace) -> list[Part]:
    """What is run, in order. A CPU needs more of the time for less, since nothing starts quickly there."""
    quick = options.device == "cpu"

    def script(path: str, *arguments: str) -> list[str]:
        return [sys.executable, path, *arguments]

    def benchmark(name: str, *arguments: str) -> list[str]:
        return script(f"benchmarks/{name}.py", *arguments, *(["--quick"] if quick else []))

    def limited(name: str, seconds: float) -> list[str]:
        return benchmark(name, "--minutes", f"{INNER * seconds / 60:.3f}")

    trace = str(options.out / "trace.json.gz")
    learn = ["tools/gpu_train.py", options.recipe, "--codes", str(options.codes), "--out", str(options.out)]
    needs = library()
    return [
        Part("tests", lambda s: tests(quick), (*needs, *TESTING), 0.2 if quick else 0.15, 180),
        Part("same_training", lambda s: benchmark("same_training"), needs, 0.15 if quick else 0.1, 90),
        Part("throughput", lambda s: limited("throughput", s), needs, 0.3 if quick else 0.35, 360),
        Part("profile", lambda s: benchmark("profiled", "--trace", trace), needs, 0.1, 90),
        Part("generation", lambda s: limited("graphs", s), needs, 0.1, 180),
        Part("training", lambda s: script(*learn, "--seconds", f"{max(0.0, s - WRITING):.1f}"), needs),
    ]


def library() -> tuple[str, ...]:
    """The packages that the library needs to train and to draw: those of its own list that are used there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^\w-]", entry, maxsplit=1)[0] for entry in project["dependencies"]]
    return tuple(name for name in names if name not in UNUSED)


def tests(quick: bool) -> list[str]:
    """The tests that need CUDA, of the files where there are any; a few of them on a CPU."""
    found = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.cuda" in path.read_text()]
    files = [ROOT / "tests" / "test_cuda.py"] if quick else found
    on = ["--tests-of-cuda-on", "cpu", "-k", "of_a_cpu"] if quick else []
    how = ["-m", "cuda", *on, "-p", "no:cacheprovider"]
    # Other options of the project's own need packages that these tests do not.
    plain = ["-o", "addopts=--import-mode=importlib", "--durations=10", "-v"]
    return [sys.executable, "-m", "pytest", *plain, *how, *map(str, files)]


def environment(options: argparse.Namespace) -> dict[str, str]:
    """Of every part: the library of this folder, results below ``--out``, no GPU in the miniature."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    results = str(options.out / "results")
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "SASHIMI_RESULTS": results, **hidden}


def missing(names: Sequence[str]) -> list[str]:
    """Packages that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def probe(options: argparse.Namespace) -> dict[str, Any]:
    """Which PyTorch and GPU there are, asked in a process of its own, which lets the GPU go again.

    ValueError where there is none, no such recipe, or no codes for it: better now than at the end.
    """
    command = [sys.executable, "-c", PROBE, options.recipe, str(options.codes)]
    answer = subprocess.run(
        command, env=environment(options), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise ValueError(f"PyTorch does not start here: {(answer.stderr.splitlines() or ['no word'])[-1]}")
    *said, last = answer.stdout.splitlines()
    found = json.loads(last)
    if "wrong" in found:
        raise ValueError(found["wrong"])
    if options.device == "cuda" and found["name"] is None:
        raise ValueError("PyTorch finds no GPU here; --device cpu runs all in miniature")
    for line in said:
        print(line)
    name = found["name"]
    return {"device": f"GPU, {name}" if name else "CPU, in miniature", "torch": found["torch"]}


def write_status(out: Path, status: dict[str, Any]) -> None:
    """In one move, so that a half-written file is never read."""
    partial = out / "status.json.partial"
    partial.write_text(json.dumps(status, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(out / "status.json")


def load_optimizer_state(earlier: Path, out: Path) -> None:
    """Begin with the checkpoints of another folder, where this one has none."""
    if not (earlier / "training").is_dir():
        raise ValueError(f"--resume must name the folder of an earlier run, with its training, got {earlier}")
    if not (out / "training").exists():
        shutil.copytree(earlier / "training", out / "training")


def run_all(options: argparse.Namespace, began: float) -> int:
    """Run every part in what is left of the time. 0 where all passed, 1 where one did not, or 128 and the
    number of the signal that stopped it."""
    options.out.mkdir(parents=True, exist_ok=True)
    total, env = 60 * options.minutes, environment(options)
    status: dict[str, Any] = {
        **probe(options),
        "recipe": options.recipe,
        "minutes": options.minutes,
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "missing": missing((*library(), *TESTING)),
        "parts": {},
    }
    print(
        f"{status['device']}; torch {status['torch']}; missing: {', '.join(status['missing']) or 'nothing'}"
    )
    if options.resume:
        load_optimizer_state(options.resume, options.out)
    with Told() as told:
        for part in parts(options):
            left = total - (time.monotonic() - began) - END - GRACE
            limit, lacking = part.limit(total, left, KEPT), missing(part.needs)
            if told():
                entry: dict[str, Any] = {"outcome": "not begun: told to stop"}
            elif lacking:
                entry = {"outcome": f"left out: {', '.join(lacking)} missing"}
            elif limit < LEAST:
                entry = {"outcome": "not begun: no time was left"}
            else:
                status["parts"][part.name] = {"outcome": "running"}
                write_status(options.out, status)
                log = options.out / "logs" / f"{part.name}.log"
                entry = vars(run(part.command(limit), log, limit, env, ROOT, told)) | {
                    "limit": round(limit, 1)
                }
            status["parts"][part.name] = entry
            write_status(options.out, status)
            print(part.name, entry["outcome"], f"{entry.get('seconds', 0):.0f} s", sep=", ", flush=True)
        failed = any(entry["outcome"] != "passed" for entry in status["parts"].values())
        return told.code or int(failed)


def main() -> int:
    """Run, or take over what a run brought."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="in all; it ends before (default: 10)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="(default: runs/gpu)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: all in miniature")
    parser.add_argument("--recipe", default="piano", help="what to train (default: the piano that ships)")
    parser.add_argument("--codes", type=Path, default=CODES, help="(default: runs/data/codes.safetensors)")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with what another run trained")
    parser.add_argument("--adopt", type=Path, metavar="FOLDER", help="take over results; nothing is run")
    options = parser.parse_args()
    options.out, options.codes = options.out.resolve(), options.codes.resolve()
    if not options.minutes > 0:
        parser.error(f"--minutes must be above 0, got {options.minutes}")
    try:
        return take_over(options.adopt) if options.adopt else run_all(options, began)
    except ValueError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2


def take_over(folder: Path) -> int:
    """Say what was taken, and what was not and why: 1 then, or where there was nothing."""
    from gpu_adopt import adopt

    taken, refused = adopt(folder)
    for name in taken:
        print(f"took {name}")
    for name, why in refused.items():
        print(f"refused {name}: {why}")
    return int(not taken or bool(refused))


if __name__ == "__main__":
    sys.exit(main())
