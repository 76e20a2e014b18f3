"""The built site, served on localhost and opened in headless Chromium; the chapters as notebooks.

Environment: SASHIMI_BROWSER names another Chromium, SASHIMI_SITE_REQUIRED=1 turns "not built" from a skip
into a failure, SASHIMI_SCREENSHOTS=FOLDER keeps a picture of every page, light and dark, desktop and phone.
"""

import functools
import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "book" / "_build" / "html"
FLAGS = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]


def pages_of_the_book() -> list[str]:
    """Return the names of all pages in the table of contents, in order."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())

    def below(entries: list[dict[str, Any]]) -> Iterator[str]:
        for entry in entries:
            yield entry["file"]
            yield from below(entry.get("sections", []))

    return [toc["root"], *(name for part in toc["parts"] for name in below(part["chapters"]))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `page_name` on every page, one that asks for `chapter` on every chapter."""
    if "page_name" in metafunc.fixturenames:
        metafunc.parametrize("page_name", [*pages_of_the_book(), "search", "genindex"])
    if "chapter" in metafunc.fixturenames:
        names = [name for name in pages_of_the_book() if name[:2].isdigit()]
        metafunc.parametrize("chapter", [ROOT / "book" / f"{name}.ipynb" for name in names], ids=names)


def unavailable(reason: str) -> None:
    """Skip, or fail where the site is required."""
    if os.environ.get("SASHIMI_SITE_REQUIRED") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def site() -> Path:
    """Return the folder of the built site."""
    if not (SITE / "index.html").exists():
        unavailable("the site is not built: run `make book`")
    return SITE


@pytest.fixture(scope="session")
def site_url(site: Path) -> Iterator[str]:
    """Serve the site on localhost and return its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Start Chromium once for all tests."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    names = ["chromium", "chromium-browser", "google-chrome"]
    path = os.environ.get("SASHIMI_BROWSER") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        unavailable("no Chromium on this machine: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@dataclass
class Visit:
    """An open page and all that went wrong on it."""

    page: Any
    problems: list[str] = field(default_factory=list)


@pytest.fixture
def visit(browser: Any, site_url: str) -> Iterator[Any]:
    """Return a function that opens a page, waits until it is complete, and notes every problem."""
    contexts = []

    def open_page(name: str) -> Visit:
        context = browser.new_context(viewport={"width": 1360, "height": 900}, color_scheme="light")
        contexts.append(context)
        result = Visit(context.new_page())
        watch(result, site_url)
        result.page.goto(f"{site_url}{name}.html", wait_until="load")
        settle(result.page)
        return result

    yield open_page
    for context in contexts:
        context.close()


def watch(visit: Visit, site_url: str) -> None:
    """Note console errors, exceptions, failed requests and requests to other hosts."""
    page, note = visit.page, visit.problems.append
    page.on("console", lambda m: note(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda e: note(f"exception: {e}"))
    page.on("requestfailed", lambda r: note(f"failed: {r.url[:200]}"))
    page.on("response", lambda r: note(f"status {r.status}: {r.url[:200]}") if r.status >= 400 else None)
    inside = (site_url, "data:", "blob:", "about:")
    page.on("request", lambda r: None if r.url.startswith(inside) else note(f"outside: {r.url[:200]}"))


def settle(page: Any) -> None:
    """Wait until mathematics is typeset and every widget is drawn."""
    page.evaluate(
        "async () => { if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise; }"
    )
    views = 'script[type="application/vnd.jupyter.widget-view+json"]'
    page.wait_for_function(
        f"document.querySelectorAll('.widget-subarea').length >= document.querySelectorAll('{views}').length"
    )
    page.evaluate("() => document.fonts.ready.then(() => null)")


@pytest.fixture
def keep_screenshot() -> Any:
    """Return a function that saves a picture of a page where SASHIMI_SCREENSHOTS asks for it."""
    folder = os.environ.get("SASHIMI_SCREENSHOTS")

    def keep(page: Any, name: str) -> None:
        if folder:
            page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    return keep


@pytest.fixture
def notebook(chapter: Path) -> dict[str, Any]:
    """Return a chapter as parsed JSON."""
    return json.loads(chapter.read_text())


@pytest.fixture(scope="session")
def repository() -> str:
    """Return the public address of the repository, from the one place where it is set."""
    config = yaml.safe_load((ROOT / "book" / "_config.yml").read_text())
    return config["repository"]["url"]
