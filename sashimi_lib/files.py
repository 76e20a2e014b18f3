"""Files that are there whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path, previous: str | Path | None = None) -> Iterator[BinaryIO]:
    """A file to write: it takes its name when all of it is on the disk; until then the old one keeps it.

    After an error there is nothing of the new one. With ``previous`` the old file is kept, under that name.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "notes"
    >>> with replacing(path) as file:
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
