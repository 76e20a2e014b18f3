"""The how-to page: its code runs from top to bottom as printed, and its commands name options that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "book" / "howto.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"`sashimi (\w+) [^`]*`", PAGE)


def test_there_is_a_section_for_each_of_ten_tasks():
    assert len(re.findall(r"^## ", PAGE, re.MULTILINE)) == 10


@pytest.mark.slow
def test_the_code_runs_as_printed(tmp_path):
    (tmp_path / "page.py").write_text("\n".join(PYTHON), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted({line.split()[0] for line in COMMANDS}))
def test_every_option_that_it_names_is_in_the_help_of_its_command(command):
    recipe = ["my-wavs"] if command == "train" else []
    done = subprocess.run(
        [sys.executable, "-m", "sashimi_lib", command, *recipe, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in PAGE.splitlines() if f"sashimi {command} " in line]
    for option in re.findall(r"--[a-z][a-z-]+", " ".join(lines)):
        assert option in done.stdout


@pytest.mark.slow
def test_the_training_options_that_it_names_are_in_the_help_of_train():
    done = subprocess.run(
        [sys.executable, "-m", "sashimi_lib", "train", "my-wavs", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    options = {
        "--grad-accumulation",
        "--activation-checkpointing",
        "--tbptt-length",
        "--precision",
        "--out",
        "--data",
    }
    for option in options:
        assert option in PAGE
        assert option in done.stdout
