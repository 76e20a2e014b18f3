"""Cached machine code is found again, but not after a change of anything that it was compiled from."""

import errno
import os
import shutil
import subprocess
import sys

import pytest
from numba import njit
from numba.core import caching

from sashimi_lib.streaming import compile_cache as cache

# Prints the sum of the logits of some codes by a compiled WaveRNN, and the number of cache hits of its loop.
PROBE = """
import torch
from sashimi_lib.models import WaveRNN, WaveRNNConfig
from sashimi_lib.streaming import compiled
from sashimi_lib.streaming.wavernn import _loop

torch.manual_seed(0)
model = WaveRNN(WaveRNNConfig(8))
logits, _ = compiled(model).teacher_forced_logits(torch.randint(0, 256, (1, 40, 2)), model.initial_cache(1))
print(float(logits.double().sum()), sum(_loop.stats.cache_hits.values()))
"""


def probed(folder):
    """Run the probe in a new process that imports the library from a folder."""
    settings = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    settings |= {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(command, cwd=folder, env=settings, check=True, capture_output=True, text=True)
    total, hits = done.stdout.split()
    return float(total), int(hits)


@pytest.mark.slow
def test_a_change_of_any_file_invalidates_the_cache(root, tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", "weights", "*.flac")
    package = shutil.copytree(root / "sashimi_lib", tmp_path / "sashimi_lib", ignore=ignore)
    before, hits = probed(tmp_path)
    assert hits == 0
    assert probed(tmp_path) == (before, 1)
    kept = sorted((package / "streaming/__pycache__").glob("wavernn._loop-*"))
    assert [path.suffix for path in kept] == [".nbc", ".nbi"]
    operations = package / "streaming/compiled_ops.py"  # which the loop's own file imports
    text, sigmoid = operations.read_text(), "return np.float32(1) / (np.float32(1) + exp(-x))"
    assert sigmoid in text
    operations.write_text(text.replace(sigmoid, "return np.float32(0.5)"))
    after, hits = probed(tmp_path)
    assert hits == 0
    assert abs(after - before) > 1e-3
    assert probed(tmp_path) == (after, 1)
    # No old file is left.
    new = sorted((package / "streaming/__pycache__").glob("wavernn._loop-*"))
    assert [path.suffix for path in new] == [".nbc", ".nbi"]
    assert not set(new) & set(kept)


@pytest.fixture
def function(tmp_path, monkeypatch):
    """A function to compile, in a file of its own."""
    (tmp_path / "mine.py").write_text("def twice(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    from mine import twice

    return twice


def test_caches_of_other_functions_are_left_alone(function, tmp_path, monkeypatch):
    monkeypatch.setattr(caching.config, "CACHE_DIR", str(tmp_path / "cache"))
    for keep in (lambda f: njit(cache=True)(f), lambda f: cache.cache_on_disk(njit(f))):
        keep(function)(3)
    names = sorted(path.name for path in (tmp_path / "cache").rglob("*.nbi"))
    assert len(names) == 1  # of the same function: ours replaces the file without a digest
    assert f"-{cache.source_digest()}." in names[0]
    assert caching.FunctionCache._impl_class is caching.CompileResultCacheImpl


def test_without_a_writable_folder_it_compiles_and_caches_nothing(function, tmp_path, monkeypatch):
    def read_only(self):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", read_only)
    dispatcher = cache.cache_on_disk(njit(function))
    assert dispatcher(3) == 6
    assert not list(tmp_path.rglob("*.nbi"))


def test_a_full_disk_is_no_error(function, tmp_path, monkeypatch):
    def full(self, key, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    assert cache.cache_on_disk(njit(function))(3) == 6
