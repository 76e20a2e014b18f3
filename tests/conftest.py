"""Fixtures for all tests, and the run-time check of the shapes that signatures promise."""

import builtins
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxtyping
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Before any import of the library: beartype then checks every annotated call. Readers pay nothing for it.
install_import_hook("sashimi_lib", "beartype.beartype")

import torch  # noqa: E402

settings.register_profile("project", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("project")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def hangups_heeded() -> Iterator[None]:
    """Let tests send a SIGHUP under nohup too, where it is ignored, and what is ignored stays so in commands
    and in programs that are started: a handler does as little, and is not passed on."""
    hangup = getattr(signal, "SIGHUP", None)
    ignored = hangup is not None and signal.getsignal(hangup) is signal.SIG_IGN
    if ignored:
        signal.signal(hangup, lambda *_: None)
    yield
    if ignored:
        signal.signal(hangup, signal.SIG_IGN)


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes a package or module, and all in it, fail to import for this test."""
    original = builtins.__import__

    def hide(package: str) -> None:
        def import_others(name: str, *args: Any, **kwargs: Any) -> ModuleType:
            if name.startswith(package):
                raise ImportError(name)
            return original(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", import_others)

    return hide


@pytest.fixture
def shapes_unchecked() -> Iterator[None]:
    """Leave shapes unchecked where a test makes thousands of calls: checking would take most of its time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def cuda(pytestconfig: pytest.Config) -> torch.device:
    """Return the device of a test marked ``cuda``, or skip where there is none; a CPU, where one is asked
    for to try the test itself."""
    name = pytestconfig.getoption("tests_of_cuda_on")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(name)


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def unshared() -> list[str]:
    """Return the start of a command that may mount disks of its own, or skip where none may."""
    command = ["unshare", "--map-root-user", "--mount"]
    can = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if can.returncode:
        pytest.skip("needs leave to mount a small disk: " + can.stderr.strip())
    return command


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference tensors and corpora beside the repository, or skip without it."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("needs the reference data in ../shared, which is not here")
    return path
