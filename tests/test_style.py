"""Short functions and files, every public name documented and typed."""

import ast
import statistics
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[1] / "sashimi_lib"
FILES = sorted(LIBRARY.rglob("*.py"))
Definition = ast.FunctionDef | ast.ClassDef


def definitions(node, public=True):
    """Yield every function and class below a node, and whether its name is public."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            visible = public and not child.name.startswith("_")
            yield child, visible
            yield from definitions(child, visible and isinstance(child, ast.ClassDef))


def untyped(function):
    """The parameters of a function without an annotation, and whether its result has none."""
    arguments = [*function.args.args, *function.args.kwonlyargs]
    missing = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls", "ctx")]
    return missing + ["result"] * (function.returns is None)


@pytest.fixture(scope="module")
def defined():
    """Every definition of the library, by file and name."""
    trees = ((path, ast.parse(path.read_text(encoding="utf-8"))) for path in FILES)
    return [
        (f"{path.relative_to(LIBRARY)}:{node.name}", node, public)
        for path, tree in trees
        for node, public in definitions(tree)
    ]


def test_files_have_at_most_350_lines():
    assert not [path.name for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 350]


def test_functions_are_short(defined):
    lines = [n.end_lineno - n.lineno + 1 for _, n, _ in defined if isinstance(n, ast.FunctionDef)]
    assert statistics.median(lines) <= 10
    assert sum(length <= 30 for length in lines) >= 0.9 * len(lines)


def test_every_public_name_is_documented_and_typed(defined):
    public = [(name, node) for name, node, visible in defined if visible]
    assert not [name for name, node in public if not ast.get_docstring(node)]
    functions = [(name, node) for name, node in public if isinstance(node, ast.FunctionDef)]
    assert not {name: untyped(node) for name, node in functions if untyped(node)}
