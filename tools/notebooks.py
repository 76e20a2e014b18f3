"""Execute chapters and store their outputs, which are what the site shows and what nbval verifies.

    python tools/notebooks.py           # the chapters whose outputs are out of date, one on every core
    python tools/notebooks.py 04 07     # these
    python tools/notebooks.py --all     # all of them
    python tools/notebooks.py --list    # only say which are out of date, and what has changed

`tools/outputs.py` says when outputs are out of date. At the first error no further chapter starts; the
message names the chapter and the cell, and what was stored in that chapter stays as it was.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tools")]

from outputs import KEY, RECORD, changed, made_from, unfit

from sashimi_lib.storage.atomic import atomic_write

SECONDS_PER_CELL = 300


def chapters(root: Path) -> list[Path]:
    """Return the chapters' notebooks, in order."""
    return sorted((root / "book").glob("[0-9][0-9]_*.ipynb"))


def environment(root: Path, record: Path) -> dict[str, str]:
    """Return a kernel's environment: the library's place, one thread as under nbval, where to note files."""
    path = os.pathsep.join([str(root), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", RECORD: str(record)}


def run_cells(path: Path, notebook: nbformat.NotebookNode, root: Path) -> list[str]:
    """Execute a chapter's cells, which fills in their outputs; return the files that its kernel opened.

    Raises RuntimeError, naming chapter and cell, where a cell fails.
    """
    started = [0]
    client = NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_name="python3",
        record_timing=False,  # times of day would make every execution a change
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--IPKernelApp.extra_extensions=tools.outputs", "--IPKernelApp.log_level=ERROR"],
        on_cell_start=lambda cell, cell_index: started.append(cell_index),
    )
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "opened"
        try:
            client.execute(env=environment(root, record))
        except (CellControlSignal, DeadKernelError) as error:  # an exception in a cell is such a signal
            raise RuntimeError(f"{place(path, notebook, started[-1])}: {error}") from error
        return record.read_text().splitlines()


def executed(path: Path, root: Path) -> nbformat.NotebookNode:
    """Return a chapter with new outputs and the record of what they were made from.

    Raises RuntimeError where a cell fails or its outputs are not for readers, and where what they are made
    from was edited meanwhile: then nobody knows which of both they show.
    """
    notebook, start = nbformat.read(path, 4), time.time()
    opened = run_cells(path, notebook, root)
    edited = edited_since(start, opened, root)
    if edited:
        raise RuntimeError(f"{path.name}: changed while it was executed, so execute it again: {edited}")
    notebook.metadata[KEY] = made_from(notebook, opened, root)
    return checked(path, without_times(notebook))


def edited_since(start: float, opened: list[str], root: Path) -> list[str]:
    """Return which sources and results below `root` were written after `start` (seconds since the epoch)."""
    inside = [Path(name) for name in opened if Path(name).is_relative_to(root)]
    read = [file for file in inside if file.suffix in (".py", ".json") and file.is_file()]
    return [file.relative_to(root).as_posix() for file in read if file.stat().st_mtime > start]


def without_times(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove the times at which an earlier execution ran each cell."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


def place(path: Path, notebook: nbformat.NotebookNode, index: int) -> str:
    """Return how a reader finds a cell: the chapter, its number among the code cells, its first line."""
    number = sum(cell.cell_type == "code" for cell in notebook.cells[: index + 1])
    return f"{path.name}, code cell {number} ({notebook.cells[index].source.partition(chr(10))[0]})"


def checked(path: Path, notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook; raise RuntimeError where a cell's outputs are not for readers."""
    for index, cell in enumerate(notebook.cells):
        reason = unfit(cell.get("outputs", []))
        if reason:
            raise RuntimeError(f"{place(path, notebook, index)}: {reason}")
    return notebook


def renew(path: Path, root: Path) -> str:
    """Execute a chapter, store it, and return a line that says so."""
    start = time.perf_counter()
    notebook = executed(path, root)
    with atomic_write(path) as file:
        file.write((nbformat.writes(notebook) + "\n").encode())
    return f"{path.stem}: {time.perf_counter() - start:.0f} s"


def renew_all(paths: list[Path], jobs: int, root: Path) -> None:
    """Renew chapters, `jobs` at a time; after an error only those that are running are finished."""
    failed = threading.Event()

    def unless_failed(path: Path) -> None:
        if not failed.is_set():
            try:
                print(renew(path, root), flush=True)
            except BaseException:
                failed.set()
                raise

    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(unless_failed, path) for path in paths]):
            done.result()


def chosen(names: list[str], everything: bool, root: Path) -> dict[Path, list[str]]:
    """Return the chapters to renew, each with the reasons why."""
    unknown = [name for name in names if not any(path.stem.startswith(name) for path in chapters(root))]
    if unknown:
        raise ValueError(f"chapter: got {unknown[0]!r}, expected the start of a name such as 04_s4")
    if names:
        return {path: ["asked for"] for path in chapters(root) if path.stem.startswith(tuple(names))}
    reasons = {path: changed(nbformat.read(path, 4), root) for path in chapters(root)}
    return {path: why or ["asked for"] for path, why in reasons.items() if why or everything}


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Run the command line; return 1 where a chapter failed, or is out of date under ``--list``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="chapter", help="the start of its name, such as 04")
    parser.add_argument("--all", action="store_true", help="also those that are up to date")
    parser.add_argument("--list", action="store_true", help="only say which are out of date, and why")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    told = parser.parse_args(arguments)
    try:
        todo = chosen(told.names, told.all, root)
        for path, why in todo.items():
            print(f"{path.stem}: {', '.join(why)}", flush=True)
        if told.list:
            return int(bool(todo))
        renew_all(list(todo), told.jobs, root)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
