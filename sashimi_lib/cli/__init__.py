"""The command ``sashimi``: what the library does, from a terminal.

    sashimi train my-wavs --data my_recordings
    sashimi generate runs/my-wavs/model.safetensors --seconds 10 --out music.wav
    sashimi evaluate runs/my-wavs/model.safetensors --data my_recordings
    sashimi stream piano --play
    sashimi data fetch fsdd --to data

What each can be told stands in `sashimi_lib.cli.arguments`, and of ``train`` in `sashimi_lib.cli.train`.
``python -m sashimi_lib`` is the same command.
"""

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

From recordings of your own to new sound: sashimi train my-wavs --data FOLDER, then sashimi generate. Exit
codes: 0 when all went well, 1 after an error, which is said in one line, 2 for wrong usage, 130 after Ctrl-C
and 143 after SIGTERM."""


def _train() -> None:
    """Train a model on recordings, of your own or of a corpus: sashimi train --help names the recipes."""


def _data(
    what: tyro.conf.OmitArgPrefixes[
        Annotated[ListCommand, tyro.conf.subcommand("list", prefix_name=False)]
        | Annotated[FetchCommand, tyro.conf.subcommand("fetch", prefix_name=False)]
    ],
) -> ListCommand | FetchCommand:
    """List the corpora that models are compared on, or fetch one."""
    return what


COMMANDS: dict[str, Callable[..., Any]] = {
    "train": _train,
    "generate": GenerateCommand,
    "evaluate": EvaluateCommand,
    "stream": StreamCommand,
    "data": _data,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what it returns is the exit code, as the help says. Wrong usage exits with 2.

    >>> main(["stream", "wavernn", "--seconds", "1"])
    1
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _warnings_in_a_line():
            return parsed(words).run() or 0
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"sashimi: {_in_a_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


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
    """The command that some words ask for. What ``train`` can be told depends on its recipe, so it is read by
    itself; and only then are the recipes imported."""
    if words[:1] == ["train"]:
        from sashimi_lib.cli.train import parse

        return parse(words[1:])
    return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="sashimi", description=ABOUT, args=words)
