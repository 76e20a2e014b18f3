"""Compiled code on disk is found again, but never once anything that it was made of has changed."""

import errno
import os
import shutil
import subprocess
import sys

import pytest
from numba import njit
from numba.core import caching

from sashimi_lib.streaming import compile_cache as cache

# The sum of all logits that a compiled WaveRNN gives some codes, and whether its loop was found on disk.
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
    """What the probe prints in a new process that takes the library from a folder."""
    settings = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    settings |= {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(command, cwd=folder, env=settings, check=True, capture_output=True, text=True)
    total, hits = done.stdout.split()
    return float(total), int(hits)


@pytest.mark.slow
def test_after_a_change_of_any_file_new_code_runs_and_without_one_the_old_is_found(root, tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", "weights", "*.flac")
    package = shutil.copytree(root / "sashimi_lib", tmp_path / "sashimi_lib", ignore=ignore)
    before, hits = probed(tmp_path)
    assert hits == 0
    assert probed(tmp_path) == (before, 1)
    kept = sorted((package / "streaming/__pycache__").glob("wavernn._loop-*"))
    assert [path.suffix for path in kept] == [".nbc", ".nbi"]
    kernels = package / "streaming/compiled_ops.py"  # which the loop's own file imports
    text, sigmoid = kernels.read_text(), "return np.float32(1) / (np.float32(1) + exp(-x))"
    assert sigmoid in text
    kernels.write_text(text.replace(sigmoid, "return np.float32(0.5)"))
    after, hits = probed(tmp_path)
    assert hits == 0
    assert abs(after - before) > 1e-3
    assert probed(tmp_path) == (after, 1)
    # Of the old code nothing is left.
    new = sorted((package / "streaming/__pycache__").glob("wavernn._loop-*"))
    assert [path.suffix for path in new] == [".nbc", ".nbi"]
    assert not set(new) & set(kept)


@pytest.fixture
def function(tmp_path, monkeypatch):
    """One to compile, in a file of its own."""
    (tmp_path / "mine.py").write_text("def twice(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    from mine import twice

    return twice


def test_other_peoples_caches_are_as_they_were(function, tmp_path, monkeypatch):
    monkeypatch.setattr(caching.config, "CACHE_DIR", str(tmp_path / "cache"))
    for keep in (lambda f: njit(cache=True)(f), lambda f: cache.cache_on_disk(njit(f))):
        keep(function)(3)
    names = sorted(path.name for path in (tmp_path / "cache").rglob("*.nbi"))
    assert len(names) == 1  # the same function: ours takes the place of what has no digest
    assert f"-{cache.source_digest()}." in names[0]
    assert caching.FunctionCache._impl_class is caching.CompileResultCacheImpl


def test_where_no_folder_can_be_written_to_it_compiles_and_keeps_nothing(function, tmp_path, monkeypatch):
    def read_only(self):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", read_only)
    dispatcher = cache.cache_on_disk(njit(function))
    assert dispatcher(3) == 6
    assert not list(tmp_path.rglob("*.nbi"))


def test_a_full_disk_costs_the_time_to_compile_alone(function, tmp_path, monkeypatch):
    def full(self, key, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    assert cache.cache_on_disk(njit(function))(3) == 6
