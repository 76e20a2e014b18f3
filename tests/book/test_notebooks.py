"""The chapters as files: executed, clean, and ready for Colab."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.outputs import MACHINE_PATH, reason_not_to_publish

ROOT = Path(__file__).resolve().parents[2]
KERNEL_BOUND = re.compile(r"\b(?:interact|interactive|interactive_output)\(|\bOutput\(|\bclear_output\(")


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return cell["metadata"].get("tags", [])


def test_chapter_was_run_from_top_to_bottom(notebook):
    cells = [cell for cell in code_cells(notebook) if source(cell).strip()]
    counts = [cell["execution_count"] for cell in cells]
    assert counts == sorted(counts)
    assert any(cell["outputs"] for cell in cells)


def test_chapter_shows_no_error(notebook):
    for cell in code_cells(notebook):
        errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
        assert not errors or "raises-exception" in tags(cell)


def test_chapter_shows_no_warning_and_no_path_of_the_machine_it_ran_on(notebook):
    for cell in code_cells(notebook):
        assert MACHINE_PATH.search(source(cell)) is None
        assert reason_not_to_publish(cell["outputs"]) is None, source(cell)


def test_chapter_starts_with_the_colab_cell(notebook):
    first = notebook["cells"][0]
    assert source(first).strip() == (ROOT / "tools" / "colab_bootstrap.py").read_text().strip()
    assert "remove-cell" in tags(first)


def test_chapter_starts_with_a_title_and_imports_the_library(notebook):
    texts = [source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    assert texts[0].startswith("# ")
    assert any(
        re.search(r"^(?:from|import) sashimi_lib", source(cell), re.MULTILINE)
        for cell in code_cells(notebook)
    )


def test_every_figure_of_a_chapter_says_what_it_shows(notebook):
    for cell in code_cells(notebook):
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) > 20, source(cell)


def test_chapter_uses_no_widget_that_needs_a_kernel(notebook):
    for cell in code_cells(notebook):
        assert KERNEL_BOUND.search(source(cell)) is None, source(cell)


def test_chapter_runs_on_any_kernel_called_python3_and_stays_small(notebook, chapter):
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert chapter.stat().st_size < 3_000_000


@pytest.mark.parametrize("check", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_chapters_keep_to_the_code_style(check):
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed")
    done = subprocess.run(
        [ruff, *check, "--no-cache", "book"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
