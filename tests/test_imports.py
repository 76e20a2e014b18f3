"""The package is built in layers: modules import from the rooms below them, and never in a circle.

What is loaded is checked in a process of its own: light imports stay light, and nothing but `display` needs
the packages of the extra ``book``.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "sashimi_lib"

# From the ground up: a module imports from its own room and from those before it. A room is the modules and
# packages of these names, directly below the package.
ROOMS: list[tuple[str, ...]] = [
    ("checks", "registry", "sampling_config"),
    ("storage",),
    ("ssm",),
    ("audio",),
    ("data",),
    ("display",),
    ("models",),
    ("official",),
    ("diffusion",),
    ("streaming",),
    ("evaluation",),
    ("training",),
    ("pretrained",),
    ("cli", "__main__"),
]


def modules_of(root: Path) -> dict[str, Path]:
    """The modules of the package by their names below it; the package itself is ``""``."""
    paths = {path.relative_to(root / PACKAGE): path for path in sorted((root / PACKAGE).rglob("*.py"))}
    return {
        ".".join(part for part in name.with_suffix("").parts if part != "__init__"): path
        for name, path in paths.items()
    }


def imported(node: ast.AST) -> Iterator[str]:
    """The full names that a syntax tree imports, those inside functions too, but for ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), orelse=orelse):
                for other in orelse:
                    yield from imported(ast.Module([other], []))
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module, names, 0):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                raise AssertionError("relative imports are not used here")
            case _:
                yield from imported(child)


def graph_of(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Which modules each module imports, by their names below the package."""
    graph: dict[str, set[str]] = {name: set() for name in sources}
    for module, source in sources.items():
        for full in imported(ast.parse(source)):
            if full.partition(".")[0] == PACKAGE:
                name = full.partition(".")[2]
                graph[module].add(name if name in sources else name.rpartition(".")[0])
        graph[module].discard(module)
    return graph


def level(module: str) -> int:
    """The room of a module, counted from the ground."""
    top = module.partition(".")[0]
    return next(number for number, room in enumerate(ROOMS) if top in room)


def upward(graph: Mapping[str, set[str]]) -> list[str]:
    """The imports from a room above. The package itself, which holds the version, lies below all."""
    return [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in sorted(others)
        if other and level(other) > level(module)
    ]


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def graph(root: Path) -> dict[str, set[str]]:
    return graph_of({name: path.read_text() for name, path in modules_of(root).items()})


def test_no_modules_import_each_other_in_a_circle(graph: dict[str, set[str]]) -> None:
    assert circle(graph) == []


def test_no_module_imports_from_a_room_above(graph: dict[str, set[str]]) -> None:
    assert upward({module: others for module, others in graph.items() if module}) == []
    assert graph[""] == set()


def test_every_room_is_there_and_every_module_is_in_one(graph: dict[str, set[str]]) -> None:
    tops = {module.partition(".")[0] for module in graph if module}
    assert tops == {name for room in ROOMS for name in room}


def test_circles_and_imports_from_above_are_found() -> None:
    sources = {
        "ssm": "def late():\n    from sashimi_lib.cli import main",
        "cli": "if TYPE_CHECKING:\n    from sashimi_lib import models\nelse:\n    import sashimi_lib.ssm",
        "models": "from sashimi_lib.cli import main\nimport torch",
    }
    found = graph_of(sources)
    assert found == {"ssm": {"cli"}, "cli": {"ssm"}, "models": {"cli"}}
    assert set(circle(found)) == {"ssm", "cli"}
    assert upward(found) == ["ssm imports cli", "models imports cli"]


# What is loaded

REFUSE = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""
BOOK = {"matplotlib", "PIL", "ipywidgets", "IPython"}
OPTIONAL = BOOK | {"numba", "librosa", "auraloss", "tensorboard", "pooch", "requests", "sounddevice"}
ENTRANCES = ["cli.train", "cli.generate", "cli.evaluate", "cli.stream", "cli.data", "training.trainer"]


def run_python(code: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, which imports this copy of the package."""
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_importing_the_package_loads_nothing_else(root: Path) -> None:
    code = "import sys; before = {*sys.modules}; import sashimi_lib; print(*{*sys.modules} - before)"
    assert run_python(code, root).stdout.split() == [PACKAGE]


@pytest.mark.slow
def test_nothing_but_display_needs_the_extra_book(graph: dict[str, set[str]], root: Path) -> None:
    modules = [f"{PACKAGE}.{name}" for name in graph if name and level(name) != level("display")]
    code = REFUSE.format(refused=BOOK) + f"for name in {modules}: importlib.import_module(name)"
    done = run_python(code, root)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_training_and_the_command_need_no_optional_package(root: Path) -> None:
    modules = [f"{PACKAGE}.{name}" for name in ENTRANCES]
    code = REFUSE.format(refused=OPTIONAL) + f"for name in {modules}: importlib.import_module(name)"
    done = run_python(code, root)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", sorted(BOOK))
def test_display_says_what_to_install(missing: str, root: Path) -> None:
    done = run_python(REFUSE.format(refused={missing}) + "import sashimi_lib.display.plots", root)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: sashimi_lib.display: No module named '{missing}'; pip install \"sashimi_lib[book]\""
    )
