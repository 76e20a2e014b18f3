"""One result, one file: ``book/results/NAME.json``, with all that is needed to trust a figure or repeat it.

A benchmark runs as ``python benchmarks/NAME.py`` from the top of the repository and ends in `save_result`; so
does a tool that judges what it has made.
The chapters read their figures from these files, so that no measured number is ever typed into text.
With the variable ``SASHIMI_RESULTS`` set, results are written to that folder in place of ``book/results``.
"""

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sashimi_lib.files import replacing

IN_BOOK = Path(__file__).resolve().parents[1] / "book" / "results"
RESULTS = Path(os.environ.get("SASHIMI_RESULTS") or IN_BOOK)


def save_result(
    name: str,
    *,
    question: str,
    config: Mapping[str, object],
    figures: Mapping[str, object],
    repeats: int,
    seed: int,
    units: Mapping[str, str] | None = None,
    data: str = "synthetic, made by the script from the seed",
) -> Path:
    """Write ``NAME.json`` into `RESULTS` in one move, so that a half-written file is never read.

    ``question`` says what was measured against what; ``units`` names the unit of each figure whose key does
    not say it; ``repeats`` is how many runs each figure rests on. Raises ValueError for NaN or infinite
    figures, which JSON has no words for: record None and say why in ``config`` or beside the figure.
    """
    script = Path(sys.argv[0]).resolve()
    result = {
        "name": name,
        "question": question,
        "command": shlex.join(["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "device": describe_device(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]},
        "seed": seed,
        "repeats": repeats,
        "data": data,
        "config": dict(config),
        "units": dict(units or {}),
        "figures": dict(figures),
    }
    text = json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False)
    path = RESULTS / f"{name}.json"
    with replacing(path) as file:
        file.write(text.encode() + b"\n")
    print(f"wrote {path.parent.name}/{path.name}", flush=True)
    return path


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What was written to a file before, or is made now and written, whole or not at all: so that a benchmark
    of hours goes on where it stopped."""
    if not path.exists():
        made = json.dumps(make())
        with replacing(path) as file:
            file.write(made.encode())
    return json.loads(path.read_text(encoding="utf-8"))


def describe_device() -> str:
    """What it ran on, without naming the machine: its GPU, or the number of cores and threads."""
    if torch.cuda.is_available():
        return f"GPU, {torch.cuda.get_device_name()}"
    return f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
