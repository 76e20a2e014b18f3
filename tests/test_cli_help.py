"""Help: one plain line for every option of every command and recipe, and nothing of what docstrings hold."""

import argparse
import re
import warnings
from collections.abc import Callable, Iterator

import pytest
import tyro

from sashimi_lib.cli import COMMANDS, main, train_arguments
from sashimi_lib.cli.arguments import FetchCommand
from sashimi_lib.evaluation.metrics import METRICS

RECIPES = train_arguments.available_recipes(gpu=False)
KINDS = {train_arguments.about(name, recipe).partition(", ")[0]: name for name, recipe in RECIPES.items()}
ARGUMENTS = {
    **{name: COMMANDS[name] for name in ("generate", "evaluate", "stream")},
    "data fetch": FetchCommand,
    **{f"train {name}": train_arguments._command(name, recipe) for name, recipe in RECIPES.items()},
}
PRIVATE = r"Chapter|Raises|``|`sashimi_lib|\bhear|\bsing\b|\btold\b|unless said"


def options(command: Callable[..., object]) -> Iterator[argparse.Action]:
    """All options of a command, as its parser has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(command)
    return (action for action in parser._actions if action.dest != "help")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_option_has_one_line_of_help(name: str) -> None:
    for option in options(ARGUMENTS[name]):
        help_, _, _ = str(option.help).partition(" (default:")
        help_ = help_.removesuffix(" (required)").replace("%%", "%")
        what = f"{name} {option.dest}: {help_!r}"
        assert re.fullmatch(r"[A-Z][^\n]{8,100}\.", help_), what
        assert not re.search(PRIVATE, help_), what


@pytest.mark.parametrize(
    "words",
    [
        *([], ["train"], ["generate"], ["evaluate"], ["stream"]),
        *(["data"], ["data", "list"], ["data", "fetch"]),
        *(["train", name] for name in [*KINDS.values(), "ljspeech_diffusion_sashimi"]),
    ],
    ids=" ".join,
)
def test_help_shows_no_remarks_for_readers_of_the_code(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: sashimi" in shown
    assert not re.search(PRIVATE, shown), re.search(rf".*({PRIVATE}).*", shown)


def test_every_kind_of_model_is_among_those() -> None:
    assert len(KINDS) >= 7, KINDS


def test_help_explains_every_metric_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    shown = capsys.readouterr().out
    for name in METRICS:
        assert re.search(rf"^ *- {name}: \w.*$", shown, re.MULTILINE), name
    assert len(re.findall(r"^ *- \w+: ", shown, re.MULTILINE)) == len(METRICS)
