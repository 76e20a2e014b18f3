"""Atomic writes and locks: a reader never sees an incomplete file, and a file has one writer at a time."""

import errno
import os
import re
import subprocess
import sys

import pytest

from sashimi_lib.storage.atomic import atomic_write, locked, partial_path

HOLD_LOCK = """
import sys
from sashimi_lib.storage.atomic import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_file_is_written_completely_or_not_at_all(tmp_path):
    path = tmp_path / "notes"
    path.write_text("old")

    def write_until(error):
        with atomic_write(path) as file:
            file.write(b"incomplete")
            raise error

    for error in (KeyboardInterrupt(), ValueError("unrelated")):
        with pytest.raises(type(error)):
            write_until(error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="notes") as full:
        write_until(OSError(errno.ENOSPC, "No space left on device"))
    assert full.value.errno == errno.ENOSPC


def test_the_previous_file_is_kept_under_its_new_name(tmp_path):
    path, previous = tmp_path / "notes", tmp_path / "notes.previous"
    for content in (b"first", b"second"):
        with atomic_write(path, previous) as file:
            file.write(content)
    assert (path.read_bytes(), previous.read_bytes()) == (b"second", b"first")


def test_a_file_has_one_writer_until_that_process_ends(tmp_path, root):
    path = tmp_path / "run.pt"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(path)], env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is in use"), locked(path):
            pass
    finally:
        other.kill()
        other.communicate()
    partial = partial_path(path)
    partial.write_bytes(b"incomplete")
    with locked(path):
        assert not partial.exists()
