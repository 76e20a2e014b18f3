"""Sphinx extension of the book: makes the API pages out of the library's docstrings.

- The API pages list every module by themselves: a line ``%% sashimi_lib.ssm`` becomes that package's modules.
- Docstrings are plain text with backticks for code, so that formulas such as ``A - p p*`` need no escaping.
"""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"(:[\w:]+:`[^`]+`|``.+?``|`[^`]+`)")


def modules(name: str) -> list[str]:
    """Return the dotted names of a module or, for a package, of itself and all public modules below it."""
    path = ROOT.joinpath(*name.split("."))
    if not path.is_dir():
        return [name]
    inside = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in sorted(path.rglob("[!_]*.py"))]
    return [name, *inside]


def reference(name: str) -> str:
    """Return the Markdown of one module's part of an API page."""
    members = "" if ROOT.joinpath(*name.split(".")).is_dir() else "   :members:\n"
    title = name.removeprefix("sashimi_lib.")
    return f"## `{title}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n{members}```\n"


def list_modules(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the lines ``%% NAME`` of an API page."""
    if docname.startswith("api_"):
        source[0] = re.sub(
            r"^%% ([\w.]+)$", lambda m: "\n".join(map(reference, modules(m[1]))), source[0], flags=re.M
        )


def plain_docstring(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Escape what reStructuredText would take for markup, outside of code; show single backticks as code."""
    for number, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = CODE.split(line)
        parts[::2] = [re.sub(r"([*|])|(?<=\w)(_)(?!\w)", r"\\\g<0>", text) for text in parts[::2]]
        parts[1::2] = [f"`{code}`" if re.fullmatch(r"`[^`]+`", code) else code for code in parts[1::2]]
        lines[number] = "".join(parts)


def score_results(app: Sphinx, config: Config) -> None:
    """Rank the how-to page first among the results of a search that match equally well."""
    config.html_search_scorer = str(Path(__file__).with_name("search_scorer.js"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Put the library on autodoc's path, and connect the rest."""
    sys.path.insert(0, str(ROOT))
    app.add_config_value("library_modules", modules("sashimi_lib"), "env")  # a new module re-reads the pages
    app.connect("config-inited", score_results)
    app.connect("source-read", list_modules)
    app.connect(
        "autodoc-process-docstring", plain_docstring, priority=400
    )  # before napoleon, which is at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
