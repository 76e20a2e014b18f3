"""Write files atomically, and lock them against a second writer."""

import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout


@contextmanager
def atomic_write(path: str | Path, previous: str | Path | None = None) -> Iterator[BinaryIO]:
    """Open a binary file that replaces ``path`` atomically on exit.

    A reader sees the old file or the new one. After an error the old file is unchanged. With
    ``previous``, the old file is renamed to that path.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "notes"
    >>> with atomic_write(path) as file:
    ...     _ = file.write(b"complete")
    >>> path.read_text()
    'complete'

    Chapter: 10. Raises OSError, naming the file, if it cannot be written, for example on a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(
                file.fileno()
            )  # before the rename: else a power cut could leave an empty file under the name
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # On a full disk PyTorch raises an unspecific RuntimeError, with the cause as its context.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and isinstance(error, OSError | RuntimeError):
            raise OSError(cause.errno, cause.strerror or str(cause), str(path)) from error
        raise
    if previous is not None and path.exists():
        os.replace(path, previous)
    os.replace(partial, path)  # atomic


def partial_path(path: str | Path) -> Path:
    """Return a random path beside a file, for its content until it is complete.

    Two processes that write the same file never share it.

    >>> partial_path("runs/run.pt").match("runs/run.pt.*.partial")
    True
    """
    path = Path(path)
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; every writer has to take it. Reentrant within a thread.

    Incomplete files that a killed process left behind are removed.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.pt"
    >>> with locked(path), locked(path), atomic_write(path) as file:
    ...     _ = file.write(b"checkpoint")

    Chapter: 10. Raises ValueError, naming the file, if another process holds the lock, and OSError if the
    lock file cannot be created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"{path} is in use: another process is writing to it") from error
    try:
        for leftover in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
