"""What every pytest run shares, `pytest --nbval book` included: the library's place, how outputs compare."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent


def pytest_configure(config: pytest.Config) -> None:
    """Let kernels, which start in book/, import the library; compare outputs after sanitising them."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    if getattr(config.option, "nbval_sanitize_with", None) is None:
        config.option.nbval_sanitize_with = str(ROOT / "tests" / "nbval_sanitize.cfg")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the long form of a few tests, which differs from the everyday one in length alone; and tests of a
    GPU on a CPU."""
    parser.addoption(
        "--tests-of-cuda-on", default="cuda", choices=("cuda", "cpu"), help="cpu: try the tests, not the GPU"
    )
    parser.addoption("--full", action="store_true", help="run streaming tests over their whole length")
