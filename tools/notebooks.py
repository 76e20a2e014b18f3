"""Execute chapters and store their outputs, which are what the site shows and what nbval verifies.

    python -m tools.notebooks           # the chapters whose outputs are out of date, one on every core
    python -m tools.notebooks 04 07     # these
    python -m tools.notebooks --all     # all of them
    python -m tools.notebooks --list    # only print which are out of date, and what has changed

`tools.outputs` determines when outputs are out of date. After an error no further chapter is started; the
message names the chapter and the cell, and the stored outputs of that chapter stay as they were.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

from sashimi_lib.storage.atomic import atomic_write
from tools.outputs import KEY, RECORD, changed, made_from, reason_not_to_publish

ROOT = Path(__file__).resolve().parents[1]
SECONDS_PER_CELL = 300


def chapters(root: Path) -> list[Path]:
    """Return the chapters' notebooks, in order."""
    return sorted((root / "book").glob("[0-9][0-9]_*.ipynb"))


def environment(root: Path, record: Path) -> dict[str, str]:
    """Return a kernel's environment: import path, one thread as under nbval, the file for `RECORD`."""
    path = os.pathsep.join([str(root), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", RECORD: str(record)}


def run_cells(path: Path, notebook: nbformat.NotebookNode, root: Path) -> list[str]:
    """Execute a chapter's cells in place; return the files that its kernel opened.

    RuntimeError, naming chapter and cell, if a cell fails.
    """
    started_cells = [0]
    client = NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_name="python3",
        record_timing=False,  # times of day would make every execution a change
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--IPKernelApp.extra_extensions=tools.outputs", "--IPKernelApp.log_level=ERROR"],
        on_cell_start=lambda cell, cell_index: started_cells.append(cell_index),
    )
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "opened"
        try:
            client.execute(env=environment(root, record))
        except (CellControlSignal, DeadKernelError) as error:  # an exception in a cell is such a signal
            raise RuntimeError(f"{describe_cell(path, notebook, started_cells[-1])}: {error}") from error
        return record.read_text().splitlines()


def execute(path: Path, root: Path) -> nbformat.NotebookNode:
    """Return a chapter with new outputs and a record of what they were made from.

    RuntimeError if a cell fails, if its outputs must not be published, and if a source was edited meanwhile:
    then it is not known which version the outputs show.
    """
    notebook, start = nbformat.read(path, 4), time.time()
    opened = run_cells(path, notebook, root)
    edited = edited_since(start, opened, root)
    if edited:
        raise RuntimeError(f"{path.name}: sources changed during execution, execute it again: {edited}")
    notebook.metadata[KEY] = made_from(notebook, opened, root)
    return check_outputs(path, remove_times(notebook))


def edited_since(start: float, opened: list[str], root: Path) -> list[str]:
    """Return which sources and results below `root` were written after `start` (seconds since the epoch)."""
    inside = [Path(name) for name in opened if Path(name).is_relative_to(root)]
    read = [file for file in inside if file.suffix in (".py", ".json") and file.is_file()]
    return [file.relative_to(root).as_posix() for file in read if file.stat().st_mtime > start]


def remove_times(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove the execution times of cells that an earlier execution stored."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


def describe_cell(path: Path, notebook: nbformat.NotebookNode, index: int) -> str:
    """Return a cell's chapter, its number among the code cells, and its first line."""
    number = sum(cell.cell_type == "code" for cell in notebook.cells[: index + 1])
    return f"{path.name}, code cell {number} ({notebook.cells[index].source.partition(chr(10))[0]})"


def check_outputs(path: Path, notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook; RuntimeError if a cell's outputs must not be published."""
    for index, cell in enumerate(notebook.cells):
        reason = reason_not_to_publish(cell.get("outputs", []))
        if reason:
            raise RuntimeError(f"{describe_cell(path, notebook, index)}: {reason}")
    return notebook


def update(path: Path, root: Path) -> str:
    """Execute a chapter, store it, and return a line for the log."""
    start = time.perf_counter()
    notebook = execute(path, root)
    with atomic_write(path) as file:
        file.write((nbformat.writes(notebook) + "\n").encode())
    return f"{path.stem}: {time.perf_counter() - start:.0f} s"


def update_all(paths: list[Path], jobs: int, root: Path) -> None:
    """Update chapters, `jobs` at a time; after an error only running ones are finished."""
    failed = threading.Event()

    def unless_failed(path: Path) -> None:
        if not failed.is_set():
            try:
                print(update(path, root), flush=True)
            except BaseException:
                failed.set()
                raise

    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(unless_failed, path) for path in paths]):
            done.result()


def select(names: list[str], all_chapters: bool, root: Path) -> dict[Path, list[str]]:
    """Return the chapters to update, each with the reasons."""
    unknown = [name for name in names if not any(path.stem.startswith(name) for path in chapters(root))]
    if unknown:
        raise ValueError(f"chapter: got {unknown[0]!r}, expected the start of a name such as 04_s4")
    if names:
        return {path: ["requested"] for path in chapters(root) if path.stem.startswith(tuple(names))}
    reasons = {path: changed(nbformat.read(path, 4), root) for path in chapters(root)}
    return {path: why or ["requested"] for path, why in reasons.items() if why or all_chapters}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the command line; return 1 if a chapter failed, or with ``--list`` is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="chapter", help="start of the name, such as 04")
    parser.add_argument("--all", action="store_true", help="execute all chapters")
    parser.add_argument("--list", action="store_true", help="only print which are out of date, and why")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="number of chapters at a time")
    options = parser.parse_args(arguments)
    try:
        todo = select(options.names, options.all, root)
        for path, why in todo.items():
            print(f"{path.stem}: {', '.join(why)}", flush=True)
        if options.list:
            return int(bool(todo))
        update_all(list(todo), options.jobs, root)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
