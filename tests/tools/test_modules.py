"""Every script of `benchmarks` and `tools` is an importable module whose ``--help`` says how to run it."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT_FOLDERS = [f"benchmarks/{name}" for name in ("speed", "quality", "numerics", "listening")] + ["tools"]
NOT_SCRIPTS = {
    "tools.colab_bootstrap",  # a cell that is pasted into every chapter
    "tools.gpu_adopt",
    "tools.gpu_processes",
    "tools.outputs",
    "tools.synthesizer",
}


def scripts():
    """The dotted names of all scripts."""
    paths = [path for folder in SCRIPT_FOLDERS for path in sorted((ROOT / folder).glob("[!_]*.py"))]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return sorted(names - NOT_SCRIPTS)


@pytest.mark.parametrize("name", scripts())
def test_help_says_how_to_run_the_module(name, monkeypatch, capsys):
    script = importlib.import_module(name)
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 0
    assert f"python -m {name}" in capsys.readouterr().out
