"""The built site as files: links that lead somewhere, pictures that say what they show."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

LOADED = {
    ("script", "src"),
    ("img", "src"),
    ("link", "href"),
    ("audio", "src"),
    ("iframe", "src"),
    ("source", "src"),
}


class Page(HTMLParser):
    """The ids, links, loaded files and pictures of one HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.pictures: list[dict[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.ids.update(value for key, value in values.items() if key in ("id", "name"))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") in ("canonical", "next", "prev", "search", "index"):
            return
        self.loaded += [values[key] for name, key in LOADED if name == tag and key in values]
        if tag == "img":
            self.pictures.append(values)


@pytest.fixture(scope="module")
def parsed(site: Path) -> dict[str, Page]:
    """Return every page of the site by its path, and the pages that sliders hold under `PATH#widgets`."""
    pages = {}
    for path in sorted(path for path in site.rglob("*.html") if "_static" not in path.parts):
        name, text = path.relative_to(site).as_posix(), path.read_text()
        pages[name] = Page(text)
        pages[f"{name}#widgets"] = Page("".join(widget_pages(text)))
    return pages


def widget_pages(text: str) -> Iterator[str]:
    """Yield the HTML that the widgets of a page hold, shown or not."""
    states = re.findall(
        r'<script type="application/vnd.jupyter.widget-state\+json">(.*?)</script>', text, re.DOTALL
    )
    for state in states:
        for model in json.loads(state)["state"].values():
            if model["model_name"] == "HTMLModel":
                yield model["state"].get("value", "")


def is_external(link: str) -> bool:
    return bool(urlsplit(link).scheme) or link.startswith("//")


def test_every_internal_link_and_anchor_resolves(site, parsed):
    dead = []
    for name, page in parsed.items():
        here = name.partition("#")[0]
        for link in filter(lambda link: not is_external(link), page.links):
            parts = urlsplit(link)
            target = (site / here).parent / unquote(parts.path) if parts.path else site / here
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                dead.append(f"{name}: {link}")
            elif parts.fragment and target.suffix == ".html":
                found = parsed[target.resolve().relative_to(site.resolve()).as_posix()]
                if unquote(parts.fragment) not in found.ids:
                    dead.append(f"{name}: {link}")
    assert dead == []


def test_every_file_a_page_loads_is_in_the_site(site, parsed):
    missing = []
    for name, page in parsed.items():
        folder = (site / name.partition("#")[0]).parent
        files = [link for link in page.loaded if not link.startswith("data:")]
        missing += [
            f"{name}: {link}"
            for link in files
            if is_external(link) or not (folder / unquote(urlsplit(link).path)).is_file()
        ]
    assert missing == []


def test_every_picture_has_alternative_text(parsed):
    silent = [
        f"{name}: {picture['src'][:60]}"
        for name, page in parsed.items()
        for picture in page.pictures
        if not picture.get("alt", "").strip() or picture["alt"].startswith("_images/")
    ]
    assert silent == []


def test_links_to_the_repository_are_derived_from_its_address(parsed, repository):
    links = {link for page in parsed.values() for link in page.links}
    own = {link for link in links if repository.removeprefix("https://") in link or "ORG/REPO" in link}
    assert any(link.startswith(repository) for link in own)
    colab = [link for link in own if "colab.research.google.com" in link]
    name = repository.removeprefix("https://github.com/")
    assert colab
    assert all(f"/github/{name}/blob/" in link for link in colab)
