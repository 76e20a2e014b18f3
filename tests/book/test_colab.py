"""A bare Colab runtime, imitated: its ipywidgets, none of what it lacks, a local clone for the address.

The imitation is an environment that sees the torch, numpy and the rest of this one, but not the library, nor
the packages that Colab may lack; ipywidgets is 7.7.1, which has no `Stack`. What it lacks comes from PyPI, as
on Colab.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
LACKING = (
    "soundfile",
    "_soundfile",
    "cffi",
    "_cffi",
    "safetensors",
    "jaxtyping",
    "wadler_lindig",
    "beartype",
    "tyro",
    "docstring_parser",
    "typeguard",
)
OTHER = (
    "ipywidgets",
    "sashimi_lib",
    "__editable__",
    "pip-",
    "pip",
    "setuptools",
    "_virtualenv",
    "__pycache__",
)

# One imitated runtime serves all, where tests run in parallel.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("colab")]

FALLBACK = """
import ipywidgets
from sashimi_lib.display.interactive import stepper

assert ipywidgets.__version__ == "7.7.1" and not hasattr(ipywidgets, "Stack")
box = stepper(["<p>one</p>", "<p>two</p>"], ["1", "2"], "step")
slider, view = box.children[0].children[-1], box.children[1]
assert view.value == "<p>one</p>"
slider.index = 1
assert view.value == "<p>two</p>"
"""


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Path:
    """Return the Python of the imitated runtime."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    purelib = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    preinstalled = folder / "preinstalled"
    preinstalled.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.lower().startswith(LACKING + OTHER):
            (preinstalled / path.name).symlink_to(path)
    Path(purelib.strip(), "preinstalled.pth").write_text(f"{preinstalled}\n")
    fetch(python, "ipywidgets==7.7.1", "ipython_genutils")
    return python


def fetch(python: Path, *packages: str) -> None:
    """Install packages by themselves, or skip where PyPI cannot be reached."""
    command = [python, "-m", "pip", "install", "-q", "--no-deps", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment())
    if done.returncode:
        if "No matching distribution" in done.stderr or "connection" in done.stderr.lower():
            pytest.skip(f"PyPI cannot be reached: {done.stderr.strip().splitlines()[-1]}")
        pytest.fail(done.stderr)


def clean_environment() -> dict[str, str]:
    """Return this environment less what would show it the library, with a local clone for the address."""
    address = (ROOT / "tools" / "colab_bootstrap.py").read_text().partition('url = "')[2].partition('"')[0]
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    git = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
    }
    return {**kept, **git, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def installed(python: Path) -> dict[str, str]:
    listed = subprocess.check_output(
        [python, "-m", "pip", "list", "--format=json"], text=True, env=clean_environment()
    )
    return {package["name"]: package["version"] for package in json.loads(listed)}


def run_cells(python: Path, folder: Path, cells: list[str]) -> None:
    """Execute cells as one notebook in a kernel of the runtime."""
    kernels = folder / "jupyter" / "kernels" / "colab"
    kernels.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "colab",
    }
    (kernels / "kernel.json").write_text(json.dumps({**spec, "language": "python"}))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    nbformat.write(notebook, folder / "notebook.ipynb")
    runner = "import nbclient, nbformat; nb = nbformat.read('notebook.ipynb', 4); "
    runner += "nbclient.NotebookClient(nb, kernel_name='colab', timeout=240).execute()"
    environment = {**clean_environment(), "JUPYTER_PATH": str(folder / "jupyter")}
    done = subprocess.run(
        [sys.executable, "-c", runner],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def setup_cells(chapter: Path) -> list[str]:
    """Return a chapter's Colab cell and its imports."""
    cells = [cell["source"] for cell in nbformat.read(chapter, 4).cells if cell["cell_type"] == "code"]
    imports = next(text for text in cells[1:] if "import sashimi_lib" in text or "from sashimi_lib" in text)
    return [cells[0], imports]


def test_chapter_starts_on_a_bare_colab_runtime(colab, chapter, tmp_path):
    before = installed(colab)
    run_cells(colab, tmp_path, [*setup_cells(chapter), FALLBACK])
    after = installed(colab)
    assert {name: after.get(name) for name in before} == before, "something preinstalled was replaced"
    assert (tmp_path / "sashimi-checkout" / "sashimi_lib").is_dir()


def test_the_colab_cell_does_nothing_where_the_library_can_be_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec((ROOT / "tools" / "colab_bootstrap.py").read_text(), {})
    assert list(tmp_path.iterdir()) == []
