"""Files that are there whole or not at all, and that one process at a time writes."""

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
    """A file to write: it takes its name when all of it is on the disk; until then the old one keeps it.

    After an error there is nothing of the new one. With ``previous`` the old file is kept, under that name.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "notes"
    >>> with atomic_write(path) as file:
    ...     _ = file.write(b"whole")
    >>> path.read_text()
    'whole'

    Chapter: 10. Raises OSError, naming the file, where it cannot be written, as on a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the bytes before the name: or a power cut could leave the name alone
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # PyTorch says of a full disk that it was at an unexpected position, and why only in the context.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and isinstance(error, OSError | RuntimeError):
            raise OSError(cause.errno, cause.strerror or str(cause), str(path)) from error
        raise
    if previous is not None and path.exists():
        os.replace(path, previous)
    os.replace(partial, path)  # atomic: a reader sees the old file or the new one


def partial_of(path: str | Path) -> Path:
    """A new name beside a file, for what is to become that file. Nobody can guess it, and two processes that
    write the same file never share it.

    >>> partial_of("runs/run.pt").match("runs/run.pt.*.partial")
    True
    """
    path = Path(path)
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Inside ``with`` a file is this process's own, as long as all who write it lock it. Within, the same
    thread may lock it again.

    What a process that was killed had written of it by then is removed.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.pt"
    >>> with locked(path), locked(path), atomic_write(path) as file:
    ...     _ = file.write(b"mine")

    Chapter: 10. Raises ValueError, naming the file, where another process has it; OSError where no lock can
    be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"{path} is in use: another process writes it just now") from error
    try:
        for left in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
