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
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sashimi_lib.storage.atomic import atomic_write

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
    arguments = [without_place(argument) for argument in sys.argv[1:]]
    result = {
        "name": name,
        "question": question,
        "command": shlex.join(["python", f"{script.parent.name}/{script.name}", *arguments]),
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
    text = numbers_on_one_line(json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False))
    path = RESULTS / f"{name}.json"
    with atomic_write(path) as file:
        file.write(text.encode() + b"\n")
    print(f"wrote {path.parent.name}/{path.name}", flush=True)
    return path


def without_place(argument: str) -> str:
    """An argument as it stands in a result: a path from the top of the repository, or if it lies elsewhere,
    its name; where the repository lies is nobody's business.

    >>> without_place(str(IN_BOOK / "bounds.json")), without_place("/home/me/gpu"), without_place("--quick")
    ('book/results/bounds.json', 'gpu', '--quick')
    """
    path, top = Path(argument), IN_BOOK.parents[1]
    if not path.is_absolute():
        return argument
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else path.name


def numbers_on_one_line(text: str) -> str:
    """Indented JSON whose lists of numbers take a line each: a figure for every recording is one row.

    >>> print(numbers_on_one_line(json.dumps({"bits": [1, 2.5], "names": ["a"]}, indent=1)))
    {
     "bits": [1, 2.5],
     "names": [
      "a"
     ]
    }
    """
    lists = r"\[\n([-+.\de,\s]+)\]"  # a line feed stands outside strings alone
    return re.sub(lists, lambda found: "[" + " ".join(found[1].split()) + "]", text)


class Parts:
    """Parts of a benchmark, of which one that fails costs itself alone.

    Inside ``with parts.of(name)`` an error is shown and kept; at the end of ``with Parts() as parts`` all of
    them are raised together, so that the program does not end as if nothing had been. ``failed`` has the
    names.
    """

    def __init__(self) -> None:
        self.failed: dict[str, Exception] = {}

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.failed and kind is None:  # an interruption is not covered up
            raise ExceptionGroup(f"failed: {', '.join(self.failed)}", list(self.failed.values()))

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """One part."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed[name] = error


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What was written to a file before, or is made now and written, whole or not at all: so that a benchmark
    of hours goes on where it stopped."""
    if not path.exists():
        made = json.dumps(make())
        with atomic_write(path) as file:
            file.write(made.encode())
    return json.loads(path.read_text(encoding="utf-8"))


def describe_device() -> str:
    """What it ran on, without naming the machine: its GPU, or the number of cores and threads."""
    if torch.cuda.is_available():
        return f"GPU, {torch.cuda.get_device_name()}"
    return f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
