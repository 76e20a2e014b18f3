"""One standard term for each idea: the names that it replaced are gone from code, chapters and help."""

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN = Path(__file__).resolve()

# Old name, new name. The first are no words of plain English: nothing may be called so, and no text may
# name them.
# The others are plain words, which a local variable or a sentence may use: nothing public may be called so.
IDENTIFIERS, WORDS = (
    dict(
        line.split() for line in OWN.with_name(f"renamed_{kind}.txt").read_text(encoding="utf-8").splitlines()
    )
    for kind in ("identifiers", "words")
)
MODULES = {
    "audio_file", "autoregressive", "cli/begin", "files", "mel", "quantize", "tensor_file", "vocoder",
    "models/autoregression", "models/build",
    "ssm/cache", "ssm/exact", "streaming/cache", "streaming/heads", "streaming/kernels",
    "streaming/loop", "streaming/states", "streaming/tier", "training/chance", "training/compute",
    "training/guard", "training/identity", "training/initial", "training/run", "training/states",
    "training/step", "training/team", "data/corpora/known",
}  # fmt: skip
OPTIONS = "accumulate|recompute|recompute-kernels|truncate|stop-after|factor|patience|compute"
COMMANDS = [["train", "--help"], ["train", "my-wavs", "--help"], ["generate", "--help"], ["stream", "--help"],
            ["evaluate", "--help"], ["--help"]]  # fmt: skip


def public_names():
    """Every name that a module or a class of the library defines, private ones left out."""
    names = set()
    for path in (ROOT / "sashimi_lib").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for scope in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
            for node in scope.body:
                match node:
                    case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                        names.add(name)
                    case ast.Assign(targets=targets):
                        names |= {target.id for target in targets if isinstance(target, ast.Name)}
                    case ast.AnnAssign(target=ast.Name(id=name)):
                        names.add(name)
    return {name for name in names if not name.startswith("_")}


def code_and_prose():
    """Each source file and notebook of the project, as its Python code and as its other text."""
    for folder in ("sashimi_lib", "benchmarks", "tools", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path != OWN:
                source = path.read_text(encoding="utf-8")
                yield path, source, source
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        by_kind = {"code": "", "markdown": ""}
        for cell in cells:
            by_kind[cell["cell_type"]] += "".join(cell["source"]) + "\n"
        yield path, by_kind["code"], by_kind["markdown"]
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        yield path, code, text


def identifiers(code):
    """The identifiers of a piece of code, which may be cells with magic lines."""
    lines = (line for line in code.splitlines(keepends=True) if not line.startswith(("%", "!")))
    tokens = tokenize.generate_tokens(io.StringIO("".join(lines)).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def test_every_new_name_is_there_and_no_old_one():
    there = public_names()
    assert not there & (IDENTIFIERS.keys() | WORDS.keys())
    elsewhere = {"glu", "load"}  # a setting of old, and a method
    assert {*IDENTIFIERS.values(), *WORDS.values()} - elsewhere <= there


def test_no_code_or_text_uses_an_old_name():
    found = {}
    for path, code, prose in code_and_prose():
        spans = re.findall(r"`([^`\n]+)`", prose.replace("``", "`"))
        quoted = {word for span in spans for word in re.findall(r"\w+", span)}
        old = (identifiers(code) | quoted) & IDENTIFIERS.keys()
        if old:
            found[str(path.relative_to(ROOT))] = sorted(old)
    assert not found


def test_no_old_module_is_there():
    assert not [name for name in MODULES if (ROOT / "sashimi_lib" / f"{name}.py").exists()]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_names_no_old_option(command):
    done = subprocess.run(
        [sys.executable, "-m", "sashimi_lib", *command], capture_output=True, text=True, check=True
    )
    assert not re.findall(rf"--(?:\w+\.)?(?:{OPTIONS})\b(?!-)", done.stdout)
