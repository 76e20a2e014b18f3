"""Records what a chapter's stored outputs were made from, and finds what has changed since.

The site shows the outputs that are stored in the notebooks. They are out of date if one of these changed:

- the notebook's code cells, except the first, which only matters on Colab;
- a module of the library that the kernel loaded;
- a measured result that the kernel opened: ``book/results/NAME.json`` and all files with that prefix;
- the recordings and trained models that ship with the library.

Their hashes are in the notebook's metadata under ``made_from``, since a clone does not preserve file times.
Comments and docstrings are ignored. `tools.notebooks` executes the chapters and writes the hashes.
"""

import ast
import hashlib
import json
import os
import re
import sys
import tokenize
from io import StringIO
from pathlib import Path
from typing import Any

import nbformat

KEY = "made_from"
RECORD = "SASHIMI_BOOK_RECORD"  # environment variable: the file in which a kernel lists what it opened
# Opened by C code, which Python's audit hook does not see:
SHIPPED = ["sashimi_lib/data/audio", "sashimi_lib/weights"]
MACHINE_PATH = re.compile(r"/(?:root|home|Users|tmp|work|opt|usr/local)/\w|site-packages|[A-Z]:\\\\Users")


def load_ipython_extension(shell: Any) -> None:
    """Write to the `RECORD` file, after every cell, the files and library modules this kernel has opened."""
    opened: set[str] = set()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str):
            opened.add(os.path.abspath(arguments[0]))

    def write_record(_: Any) -> None:
        library = [module for name, module in sys.modules.items() if name.partition(".")[0] == "sashimi_lib"]
        modules = {module.__file__ for module in library if module.__file__}
        Path(os.environ[RECORD]).write_text("\n".join(sorted(opened | modules)))

    sys.addaudithook(hook)
    shell.events.register("post_run_cell", write_record)


def sources(opened: list[str], root: Path) -> list[str]:
    """Return the names of library modules and results among `opened`, as `made_from` lists them."""
    inside = [Path(name).relative_to(root) for name in opened if Path(name).is_relative_to(root)]
    modules = {path.as_posix() for path in inside if path.suffix == ".py" and path.parts[0] == "sashimi_lib"}
    results = {path.with_suffix("").as_posix() for path in inside if path.match("book/results/*.json")}
    return sorted(modules) + sorted(results) + SHIPPED


def code_of(source: str) -> str:
    """Return Python source without comments and docstrings, and without lines left empty by that."""
    lines = dict(enumerate(source.splitlines(), start=1))
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    comments = [token.start for token in tokens if token.type == tokenize.COMMENT]
    for row, column in comments:
        lines[row] = lines[row][:column].rstrip()
    removed = {row for row, _ in comments if not lines[row]}
    for text in docstrings(source):
        removed.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return "\n".join(line for row, line in lines.items() if row not in removed)


def docstrings(source: str) -> list[ast.stmt]:
    """Return the docstrings in a module that are on lines of their own."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    documented = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds) and node.body]
    found = [node for node in documented if ast.get_docstring(node, clean=False) is not None]
    return [node.body[0] for node in found if node.body[0].lineno > getattr(node, "lineno", 0)]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def hash_of_cells(notebook: nbformat.NotebookNode) -> str:
    """Return a hash of the code of all code cells after the first."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return _hash(json.dumps([code_of(cell.source) for cell in cells[1:]]).encode())


def hash_of_source(name: str, root: Path) -> str:
    """Return a hash of a module's code, or of every file whose path below `root` starts with `name`."""
    if name.endswith(".py"):
        return _hash(code_of((root / name).read_text()).encode()) if (root / name).is_file() else "gone"
    tops = root.glob(f"{name}*")
    files = sorted(path for top in tops for path in [top, *top.rglob("*")] if path.is_file())
    return _hash(b"".join(_hash(path.read_bytes()).encode() + path.name.encode() for path in files))


def made_from(notebook: nbformat.NotebookNode, opened: list[str], root: Path) -> dict[str, str]:
    """Return the names and hashes of what new outputs were made from."""
    return {"cells": hash_of_cells(notebook), **{n: hash_of_source(n, root) for n in sources(opened, root)}}


def changed(notebook: nbformat.NotebookNode, root: Path) -> list[str]:
    """Return the names of what has changed since the outputs were made; empty if they are up to date."""
    recorded = notebook.metadata.get(KEY)
    if recorded is None:
        return ["no record of what the outputs were made from"]
    now = {name: hash_of_source(name, root) for name in recorded if name != "cells"}
    now["cells"] = hash_of_cells(notebook)
    return [name for name, value in recorded.items() if now[name] != value]


def printed(outputs: list[Any]) -> str:
    """Return the visible text of outputs: streams, plain text and HTML, without embedded media."""
    texts = []
    for output in outputs:
        texts.append("".join(output.get("text", "")))
        texts += ["".join(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return re.sub(r"base64,[A-Za-z0-9+/=]+", "", "\n".join(texts))


def reason_not_to_publish(outputs: list[Any]) -> str | None:
    """Return why outputs must not be published (a warning, stderr, a path of this machine), or None."""
    errors = ["".join(output["text"]) for output in outputs if output.get("name") == "stderr"]
    if errors or "Warning" in printed(outputs):
        return f"a warning or stderr output: {''.join(errors) or printed(outputs)}"
    path = MACHINE_PATH.search(printed(outputs))
    return f"a path of this machine: {path[0]}" if path else None
