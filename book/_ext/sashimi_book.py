"""Sphinx extension of the book: the library is importable while pages are built, and a change in it re-runs them.

The notebook cache keys on code cells and kernel name only, so without this an edit in ``sashimi_lib`` alone would leave
stale outputs on the pages, even after ``jupyter-book build --all``.
"""

import hashlib
import os
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

ROOT = Path(__file__).resolve().parents[2]


def digest() -> str:
    """Return a short hash of all that outputs depend on besides the notebooks: the library and the measured results."""
    sha = hashlib.sha256()
    sources = [path for path in (ROOT / "sashimi_lib").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for path in sorted(sources + list((ROOT / "book" / "results").glob("*.json"))):
        sha.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return sha.hexdigest()[:12]


def configure(app: Sphinx, config: Config) -> None:
    """Give every state of the library its own cache of executed notebooks."""
    config.library_digest = digest()  # rebuild="env": another value re-reads every page
    if config.nb_execution_mode == "cache" and not config.nb_execution_cache_path:
        config.nb_execution_cache_path = str(Path(app.outdir).parent / ".jupyter_cache" / config.library_digest)


def setup(app: Sphinx) -> dict[str, bool]:
    """Put the library on the kernels' path and on autodoc's."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.path.insert(0, str(ROOT))
    app.add_config_value("library_digest", "", "env")
    app.connect("config-inited", configure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
