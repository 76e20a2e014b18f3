"""The command ``sashimi``: what the library does, from a terminal.

    sashimi train my-wavs --data my_recordings
    sashimi generate runs/my-wavs/model.safetensors --seconds 10 --out music.wav
    sashimi evaluate runs/my-wavs/model.safetensors --data my_recordings
    sashimi stream piano --play
    sashimi data fetch fsdd --to data

Arguments are data (`sashimi_lib.cli.arguments`, and of ``train`` `sashimi_lib.cli.train_arguments`); `RUN`
says which function runs which. ``python -m sashimi_lib`` is the same command.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import tyro

from sashimi_lib.cli.arguments import (
    EvaluateCommand,
    FetchCommand,
    GenerateCommand,
    ListCommand,
    StreamCommand,
)

ABOUT = """Raw-audio generation with state-space models.

From recordings of your own to new sound: sashimi train my-wavs --data FOLDER, then sashimi generate.

Exit codes: 0 success, 1 error (one line on stderr), 2 wrong usage, 130 after Ctrl-C, 143 after SIGTERM,
129 after SIGHUP."""

# The function of each class of arguments, imported only when it is called: PyTorch takes seconds.
RUN = {
    "TrainCommand": "sashimi_lib.cli.train:run",
    "GenerateCommand": "sashimi_lib.cli.generate:run",
    "EvaluateCommand": "sashimi_lib.cli.evaluate:run",
    "StreamCommand": "sashimi_lib.cli.stream:run",
    "ListCommand": "sashimi_lib.cli.data:show",
    "FetchCommand": "sashimi_lib.cli.data:fetch",
}


def _train() -> None:
    """Train a model on your own recordings or on a corpus. sashimi train --help lists the recipes."""


def _data(
    what: tyro.conf.OmitArgPrefixes[
        Annotated[ListCommand, tyro.conf.subcommand("list", prefix_name=False)]
        | Annotated[FetchCommand, tyro.conf.subcommand("fetch", prefix_name=False)]
    ],
) -> ListCommand | FetchCommand:
    """List the corpora of published comparisons, or fetch one."""
    return what


COMMANDS: dict[str, Callable[..., Any]] = {
    "train": _train,
    "generate": GenerateCommand,
    "evaluate": EvaluateCommand,
    "stream": StreamCommand,
    "data": _data,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, as the help says. Wrong usage exits with 2.

    >>> main(["stream", "wavernn", "--seconds", "1"])
    1
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _warnings_in_a_line():
            command = parsed(words)
            return function_of(command)(command)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"sashimi: {_in_a_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def function_of(command: Any) -> Callable[[Any], int]:
    """The function that runs a command and returns the exit code, imported now.

    >>> function_of(ListCommand()).__module__
    'sashimi_lib.cli.data'
    """
    return _imported(RUN[type(command).__name__])


def _imported(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Inside ``with`` a warning is shown as errors are, without the source line it came from."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"sashimi: warning: {_in_a_line(message)}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _in_a_line(message: object) -> str:
    return " ".join(line.strip() for line in str(message).splitlines())


def parsed(words: list[str]) -> Any:
    """The command that the words of a command line ask for. The options of ``train`` depend on its recipe, so
    it has a parser of its own, which is imported only then."""
    if words[:1] == ["train"]:
        return _imported("sashimi_lib.cli.train_arguments:parse")(words[1:])
    return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="sashimi", description=ABOUT, args=words)
