"""One result, one file: ``book/results/NAME.json``, with what is needed to verify or repeat its figures.

A benchmark runs as ``python -m benchmarks.FOLDER.NAME`` from the root of the repository and ends in
`save_result`; so does a tool that evaluates what it has trained. Chapters read their figures from these
files, so no measured number is typed into text. The environment variable ``SASHIMI_RESULTS`` names another
folder.
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

ROOT = Path(__file__).resolve().parents[2]
IN_BOOK = ROOT / "book" / "results"


def results_folder() -> Path:
    """Where results are written: ``book/results``, or the folder that ``SASHIMI_RESULTS`` names."""
    return Path(os.environ.get("SASHIMI_RESULTS") or IN_BOOK)


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
    """Write ``NAME.json`` into `results_folder` atomically, so that a half-written file is never read.

    ``question`` says what was compared with what; ``units`` gives the unit of each figure whose key does not
    name it; ``repeats`` is the number of runs behind each figure. ValueError for NaN or infinite figures,
    which JSON does not have: record None, and say why in ``config`` or beside the figure.
    """
    result = {
        "name": name,
        "question": question,
        "command": command_line(sys.argv),
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
    path = results_folder() / f"{name}.json"
    with atomic_write(path) as file:
        file.write(text.encode() + b"\n")
    print(f"wrote {path.parent.name}/{path.name}", flush=True)
    return path


def command_line(argv: list[str]) -> str:
    """The command that reproduces this run from the repository's root, without paths of this machine.

    >>> command_line([str(ROOT / "benchmarks" / "speed" / "bounds.py"), "--quick"])
    'python -m benchmarks.speed.bounds --quick'
    """
    script = Path(argv[0]).resolve()
    if script.is_relative_to(ROOT):
        program = ["-m", ".".join(script.relative_to(ROOT).with_suffix("").parts)]
    else:
        program = [script.name]
    return shlex.join(["python", *program, *map(without_machine_path, argv[1:])])


def without_machine_path(argument: str) -> str:
    """An argument for the record: an absolute path becomes relative to the repository, or its last part.

    >>> paths = str(IN_BOOK / "bounds.json"), "/home/me/gpu", "--quick"
    >>> [without_machine_path(argument) for argument in paths]
    ['book/results/bounds.json', 'gpu', '--quick']
    """
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def numbers_on_one_line(text: str) -> str:
    """Indented JSON with each list of numbers on one line.

    >>> print(numbers_on_one_line(json.dumps({"bits": [1, 2.5], "names": ["a"]}, indent=1)))
    {
     "bits": [1, 2.5],
     "names": [
      "a"
     ]
    }
    """
    lists = r"\[\n([-+.\de,\s]+)\]"  # a raw line feed never occurs inside a JSON string
    return re.sub(lists, lambda found: "[" + " ".join(found[1].split()) + "]", text)


class ErrorCollector:
    """Lets the parts of a benchmark fail independently of each other.

    An exception inside ``with errors.collect(name)`` is printed and stored; at the end of
    ``with ErrorCollector() as errors`` all of them are raised as one ExceptionGroup, so that the exit code
    shows the failure. ``failed`` maps names to exceptions.
    """

    def __init__(self) -> None:
        self.failed: dict[str, Exception] = {}

    def __enter__(self) -> "ErrorCollector":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.failed and kind is None:  # an interruption takes precedence
            raise ExceptionGroup(f"failed: {', '.join(self.failed)}", list(self.failed.values()))

    @contextmanager
    def collect(self, name: str) -> Iterator[None]:
        """Run one part."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed[name] = error


def load_or_compute(path: Path, execution: Callable[[], Any]) -> Any:
    """The JSON content of a file; computed and written atomically if it does not exist yet. A benchmark that
    takes hours resumes from such files."""
    if not path.exists():
        content = json.dumps(execution())
        with atomic_write(path) as file:
            file.write(content.encode())
    return json.loads(path.read_text(encoding="utf-8"))


def describe_device() -> str:
    """The GPU's name, or the number of CPU cores and threads; never the machine's name."""
    if torch.cuda.is_available():
        return f"GPU, {torch.cuda.get_device_name()}"
    return f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
