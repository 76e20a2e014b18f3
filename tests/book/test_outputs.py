"""Stored outputs: as new as what they were made from, fit for readers, and made anew by one command."""

import shutil
from pathlib import Path

import nbformat
import pytest

from tools import notebooks
from tools.outputs import KEY, changed, code_of

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = "book/01_one.ipynb"
CODE = """from pathlib import Path
from sashimi_lib import used

print(used.twice(21), Path("results/measured.json").read_text())"""
MODULE = '"""Numbers."""\n\n\ndef twice(x):\n    """Two of x."""\n    return 2 * x  # exact\n'
FILES = {
    "sashimi_lib/__init__.py": "",
    "sashimi_lib/used.py": MODULE,
    "sashimi_lib/unused.py": MODULE,
    "sashimi_lib/weights/model.safetensors": "weights",
    "book/results/measured.json": "7",
    "book/results/other.json": "8",
}


def store(root, *sources):
    """Write a chapter with these code cells after the one for Colab."""
    cells = [nbformat.v4.new_code_cell(source) for source in ("# for Colab", *sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / CHAPTER)


def read(root):
    return nbformat.read(root / CHAPTER, 4)


def write(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the root of a book of one chapter, which has been executed."""
    root = tmp_path_factory.mktemp("executed")
    for name, text in FILES.items():
        write(root, name, text)
    store(root, CODE)
    assert notebooks.main([], root) == 0
    return root


@pytest.fixture
def book(executed, tmp_path):
    """Return a copy of that book."""
    return Path(shutil.copytree(executed, tmp_path / "book"))


@pytest.mark.slow  # what it asks for is: minutes of execution after a change of the library
def test_stored_outputs_are_as_new_as_the_library_and_the_results(chapter):
    newer = changed(nbformat.read(chapter, 4), ROOT)
    assert newer == [], f"{chapter.name} was executed before these changed: run `make notebooks`"


def test_an_executed_chapter_says_what_its_outputs_were_made_from(executed):
    notebook = read(executed)
    assert notebook.cells[1].outputs[0].text == "42 7\n"
    assert set(notebook.metadata[KEY]) == {
        "cells",
        "sashimi_lib/__init__.py",
        "sashimi_lib/used.py",
        "sashimi_lib/weights",
        "sashimi_lib/data/audio",
        "book/results/measured",
    }
    assert changed(notebook, executed) == []


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("sashimi_lib/used.py", MODULE.replace("2 *", "3 *"), ["sashimi_lib/used.py"]),
        ("sashimi_lib/weights/model.safetensors", "others", ["sashimi_lib/weights"]),
        ("sashimi_lib/weights/new.safetensors", "weights", ["sashimi_lib/weights"]),
        ("book/results/measured.json", "9", ["book/results/measured"]),
        ("book/results/measured_gpu.json", "9", ["book/results/measured"]),
        ("book/results/measured_0.flac", "sound", ["book/results/measured"]),
        ("book/results/other.json", "9", []),
        ("sashimi_lib/unused.py", "", []),
        ("sashimi_lib/used.py", MODULE.replace("Two of x", "Twice x").replace("exact", "no rounding"), []),
    ],
)
def test_outputs_are_out_of_date_when_what_they_were_made_from_has_changed(book, name, text, named):
    write(book, name, text)
    assert changed(read(book), book) == named


def test_outputs_are_out_of_date_when_a_cell_has_changed_or_a_module_is_gone(book):
    notebook = read(book)
    notebook.cells[0].source += "  # a new address"
    assert changed(notebook, book) == []
    notebook.cells[1].source = CODE.replace("21", "22")
    (book / "sashimi_lib/used.py").unlink()
    assert changed(notebook, book) == ["cells", "sashimi_lib/used.py"]


@pytest.mark.slow
def test_only_chapters_that_are_out_of_date_are_executed(book, capsys):
    before = (book / CHAPTER).read_bytes()
    assert notebooks.main([], book) == 0
    assert (book / CHAPTER).read_bytes() == before
    write(book, "book/results/measured.json", "9")
    assert notebooks.main(["--list"], book) == 1
    assert capsys.readouterr().out == "01_one: book/results/measured\n"
    assert notebooks.main([], book) == 0
    assert read(book).cells[1].outputs[0].text == "42 9\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("x = 1\nassert x == 2, 'not two'", "not two"),
        ("import warnings\nwarnings.warn('deprecated')", "deprecated"),
        ("import os\nprint(os.path.abspath('results'))", "a path of this machine"),
    ],
)
def test_a_cell_that_fails_is_named_and_what_was_stored_stays(book, capsys, cell, reason):
    store(book, CODE, cell)
    before = (book / CHAPTER).read_bytes()
    assert notebooks.main([], book) == 1
    error = capsys.readouterr().err
    assert f"01_one.ipynb, code cell 3 ({cell.splitlines()[0]})" in error
    assert reason in error
    assert (book / CHAPTER).read_bytes() == before


@pytest.mark.slow
def test_what_is_edited_while_a_chapter_runs_is_named(book, capsys):
    store(book, CODE, "Path(used.__file__).write_text('')")
    assert notebooks.main([], book) == 1
    assert "sources changed during execution" in capsys.readouterr().err
    assert KEY not in read(book).metadata


@pytest.mark.slow
def test_after_an_error_no_further_chapter_starts(book):
    store(book, "print('once', file=open('started', 'a'))\nraise OSError")
    shutil.copy(book / CHAPTER, book / "book/02_two.ipynb")
    assert notebooks.main(["--all", "--jobs", "1"], book) == 1
    assert (book / "book/started").read_text() == "once\n"


def test_a_chapter_that_is_not_there_is_refused(book, capsys):
    assert notebooks.main(["99"], book) == 1
    assert "chapter: got '99'" in capsys.readouterr().err


def test_comments_and_docstrings_are_no_code():
    source = 'class A:\n    """Doc\n\n    # more."""\n\n    x = "#1"  # one\n    # two\n\n\ndef f(): "kept"\n'
    assert code_of(source) == 'class A:\n\n    x = "#1"\n\n\ndef f(): "kept"'
