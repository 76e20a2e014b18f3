"""An on-disk cache of machine code that is invalidated by a change of any source file it depends on.

Numba caches compiled code and validates it by the file of the function that was called. The compiled loops
call functions in several files, so an update of one of those would leave stale machine code in use. Here the
name of a cache file contains a digest of this whole folder and of the compiler's version, so changed sources
never match old files. Where the files are is Numba's choice (``__pycache__``, ``NUMBA_CACHE_DIR``, or a
cache folder of the user).
"""

import functools
import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
from numba.core.caching import CompileResultCacheImpl, FunctionCache


@functools.cache
def source_digest() -> str:
    """Return a digest of what Numba does not check itself (it does check its version, Python and the CPU)."""
    sha = hashlib.sha256(llvmlite.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sha.update(path.name.encode() + path.read_bytes())
    return sha.hexdigest()[:16]


class _DigestInName(CompileResultCacheImpl):
    """An implementation that adds the digest to the names of cache files."""

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        """Return ``MODULE.FUNCTION-LINE.pyVERSION-DIGEST``."""
        self.function = fullname
        return f"{super().get_filename_base(fullname, abiflags)}-{source_digest()}"


class SourceCache(FunctionCache):
    """Numba's cache of one function, with the digest in its file names.

    Files with another digest are removed when new ones are written. Where the cache cannot be written, the
    function is compiled in every process.
    """

    _impl_class = _DigestInName

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write the machine code for one signature."""
        with suppress(OSError):
            super().save_overload(sig, data)
            for path in Path(self.cache_path).glob(f"{self._impl.function}-*.nb[ic]"):
                if f"-{source_digest()}." not in path.name:
                    path.unlink(missing_ok=True)


def cache_on_disk(dispatcher: Any) -> Any:
    """Enable the on-disk cache of a function compiled by Numba, if a folder is writable. Chapter: 7."""
    with suppress(RuntimeError):  # Numba finds no writable folder
        dispatcher._cache = SourceCache(dispatcher.py_func)
    return dispatcher
