"""Machine code on disk that is as old as everything it was made of.

Numba keeps what it compiles and recognises it by the file of the function that was called. Our loops are
made of functions in several files, so after an update of one of these, old machine code would run. Here the
name of a cache file holds a digest of this whole folder and of the compiler's version: other sources, other
files. Where they lie is Numba's choice, as for anybody's code (``__pycache__``, ``NUMBA_CACHE_DIR``, a folder
of the user's own).
"""

import functools
import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
from numba.core.caching import CompileResultCacheImpl, FunctionCache


@functools.cache
def digest() -> str:
    """What compiled code depends on, beside what Numba compares itself: its version, Python's and the CPU."""
    sha = hashlib.sha256(llvmlite.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sha.update(path.name.encode() + path.read_bytes())
    return sha.hexdigest()[:16]


class _Named(CompileResultCacheImpl):
    """Names files by the digest as well."""

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        """``MODULE.FUNCTION-LINE.pyVERSION-DIGEST``."""
        self.function = fullname
        return f"{super().get_filename_base(fullname, abiflags)}-{digest()}"


class SourceCache(FunctionCache):
    """Numba's cache of one function, under such names. Files of other sources are removed when new ones are
    written. A cache that cannot be written costs the time to compile, and nothing else."""

    _impl_class = _Named

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled for some types of arguments."""
        with suppress(OSError):
            super().save_overload(sig, data)
            for path in Path(self.cache_path).glob(f"{self._impl.function}-*.nb[ic]"):
                if f"-{digest()}." not in path.name:
                    path.unlink(missing_ok=True)


def keep_on_disk(dispatcher: Any) -> Any:
    """A function compiled by Numba whose machine code is kept for other processes, where any folder can be
    written to. Chapter: 7."""
    with suppress(RuntimeError):  # Numba finds no such folder
        dispatcher._cache = SourceCache(dispatcher.py_func)
    return dispatcher
