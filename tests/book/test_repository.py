"""The project around the book: one address, requirements that agree, commands in texts that exist and run."""

import ast
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile
import yaml
from torch.distributed.run import get_args_parser

from sashimi_lib.cli import function_of, main, parsed

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["README.md", "book/intro.md"]
SHORT = {"10": "0.01", "8": "2"}  # seconds of sound, processes and sequences
SINGLE_PROCESS = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SMALL = ["--steps", "2", "--length", "128", "--model.d-model", "4", "--model.n-layers", "1"]  # sashimi train
MINIATURE = {"steps=2_000": "steps=2", "generate(16_000": "generate(160"}  # printed examples run at this size
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKE_TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def lines_of(file: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return [line for line in lines if line]


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the code blocks of one language in the README and the intro, as (where, code)."""
    fence = re.compile(rf"^```(?:{language}|{{code-block}} {language})\n((?:.*\n)*?)```$", re.MULTILINE)
    texts = ((name, (ROOT / name).read_text()) for name in TEXTS)
    return [(name, match[1]) for name, text in texts for match in fence.finditer(text)]


def shell_lines() -> list[str]:
    lines = [line.partition("  #")[0].strip() for _, code in blocks("bash") for line in code.splitlines()]
    return sorted({line for line in lines if line and not line.startswith(("#", ":"))})


def tracked(root: Path) -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and os.path.lexists(root / name)]


@pytest.fixture
def clone(tmp_path):
    """Return a fresh clone of what is committed."""
    tracked(ROOT)
    subprocess.run(["git", "clone", "-q", f"file://{ROOT}", str(tmp_path / "clone")], check=True)
    return tmp_path / "clone"


def test_every_file_that_spells_out_the_repository_agrees_with_the_configuration(repository):
    bootstrap = (ROOT / "tools" / "colab_bootstrap.py").read_text()
    assert f'url = "{repository}"' in bootstrap
    assert PYPROJECT["project"]["urls"]["Repository"] == repository
    for name, code in blocks("bash"):
        for address in re.findall(r"git clone (\S+)", code):
            assert address == repository, name
    clones = [line for line in shell_lines() if line.startswith("cd ")]
    assert clones == [f"cd {repository.rsplit('/', 1)[1]}"]


@pytest.mark.slow
def test_one_command_sets_the_repository_everywhere(clone, repository):
    new = "https://github.com/somebody/some-book"
    command = [sys.executable, "-m", "tools.set_repository"]
    subprocess.run([*command, new], cwd=clone, check=True, capture_output=True)
    for name in set(tracked(clone)) - {"tools/set_repository.py", "tests/book/test_repository.py"}:
        if not (clone / name).is_symlink():
            content = (clone / name).read_bytes()
            assert repository.encode() not in content, name
    assert yaml.safe_load((clone / "book/_config.yml").read_text())["repository"]["url"] == new
    assert f'url = "{new}"' in (clone / "tools/colab_bootstrap.py").read_text()
    assert "cd some-book" in (clone / "README.md").read_text()
    again = subprocess.run(command, cwd=clone, check=True, capture_output=True, text=True)
    assert again.stdout == "nothing to change\n"


@pytest.mark.slow
def test_an_address_that_is_none_is_refused(clone):
    command = [sys.executable, "-m", "tools.set_repository", "example.org"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ValueError: address: got 'example.org'" in done.stderr


def test_requirements_hold_all_that_the_library_and_the_book_need():
    required = {name_of(line): line for line in lines_of("requirements.txt")}
    extras = PYPROJECT["project"]["optional-dependencies"]
    needed = [extras[name] for name in ("book", "vocoder", "evaluation", "fast", "data")]
    for line in [*PYPROJECT["project"]["dependencies"], *itertools.chain(*needed)]:
        assert required[name_of(line)] == line
    named = [
        "torch",
        "jupyter-book",
        "matplotlib",
        "ipywidgets",
        "numpy",
        "scipy",
        "soundfile",
        "nbval",
        "ipython",
    ]
    assert set(named) <= set(required)


def test_requirements_give_lower_bounds_only_and_constraints_exact_versions():
    for line in [*lines_of("requirements.txt"), *PYPROJECT["project"]["dependencies"]]:
        assert re.fullmatch(r"[\w.-]+>=[\d.]+(,<2)?", line), line
        assert ",<" not in line or line.startswith("jupyter-book"), line
    pinned = lines_of("constraints.txt")
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned)
    wanted = {
        name_of(line) for extra in PYPROJECT["project"]["optional-dependencies"].values() for line in extra
    }
    wanted |= {name_of(line) for line in lines_of("requirements.txt")}
    assert wanted <= {name_of(line) for line in pinned}


def test_the_package_imports_nothing_it_does_not_require():
    provides = {
        "PIL": "pillow",
        "IPython": "ipython",
        "cycler": "matplotlib",
        "mpl_toolkits": "matplotlib",
        "llvmlite": "numba",
    }
    extras = PYPROJECT["project"]["optional-dependencies"]
    lines = [
        *PYPROJECT["project"]["dependencies"],
        *extras["vocoder"],
        *extras["evaluation"],
        *extras["fast"],
        *extras["data"],
        *extras["play"],
    ]
    required = {name_of(line).replace("-", "_") for line in lines}
    for_display = required | {name_of(line) for line in extras["book"]}
    for path in (ROOT / "sashimi_lib").rglob("*.py"):
        allowed = for_display if path.parent.name == "display" else required
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.partition(".")[0] for name in names} - {"sashimi_lib"} - sys.stdlib_module_names:
                assert provides.get(top, top).lower() in allowed, f"{path.name} imports {top}"


@pytest.mark.parametrize(("folder", "megabytes"), [("", 40), ("data/pack/", 20)])
def test_what_is_tracked_stays_small_enough_to_clone(folder, megabytes):
    sizes = {name: (ROOT / name).lstat().st_size for name in tracked(ROOT) if name.startswith(folder)}
    largest = sorted(sizes, key=sizes.__getitem__)[-5:]
    assert sum(sizes.values()) < megabytes * 1_000_000, f"the largest: {largest}"


def test_configuration_at_the_top_is_that_of_the_book():
    for name in ("_config.yml", "_toc.yml"):
        assert (ROOT / name).resolve() == ROOT / "book" / name


@pytest.mark.parametrize("line", shell_lines())
def test_every_printed_command_exists(line, repository):
    words = shlex.split(line)
    match words:
        case ["make", *targets]:
            names = [word for word in targets if "=" not in word]
            assert set(names) <= MAKE_TARGETS
        case ["git", "clone", address]:
            assert address == repository
        case ["cd", folder]:
            assert folder == repository.rsplit("/", 1)[1]
        case ["python", "-m", module, *_]:
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
        case ["pip", "install", *arguments]:
            files = [file for flag, file in itertools.pairwise(arguments) if flag in ("-r", "-c")]
            assert all((ROOT / file).is_file() for file in files)
            for extra in re.findall(r"\.\[([\w,]+)\]", line):
                assert set(extra.split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])
        case ["sashimi", *_] | ["torchrun", *_]:
            pass  # they run one after the other, below
        case ["jupyter-book", "build", "book"] | ["jupyter", "notebook", "book"] | ["bash", ".ci/run"]:
            assert (ROOT / words[-1]).exists()
        case ["pytest", *paths]:
            assert all((ROOT / path).exists() for path in paths if not path.startswith("-"))
        case _:
            pytest.fail(f"no check for this command: {line}")


@pytest.mark.slow
def test_printed_commands_of_the_library_run_in_their_order(tmp_path, monkeypatch, capsys):
    ours = ("sashimi ", "torchrun ")
    lines = [line for _, code in blocks("bash") for line in code.splitlines() if line.startswith(ours)]
    monkeypatch.chdir(tmp_path)
    Path("data/fsdd").mkdir(parents=True)  # as if it had been fetched
    Path("my_recordings").mkdir()
    for number in range(3):
        soundfile.write(
            f"my_recordings/{number}.wav", 0.2 * np.sin(0.1 * (1 + number) * np.arange(4000)), 8000
        )
    ran = []
    for line in lines:
        program, *arguments = shlex.split(line)
        arguments = [SHORT.get(word, word) for word in arguments]
        arguments += SMALL if "train" in arguments else []
        if program == "torchrun":
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *arguments]
            done = subprocess.run(
                command, env=SINGLE_PROCESS, capture_output=True, text=True, check=False, timeout=120
            )
            assert done.returncode == 0, (line, done.stderr)
        else:
            assert main(arguments) == 0, (line, capsys.readouterr().err)
        ran.append(program if program == "torchrun" else arguments[0])
    assert ran == ["train", "generate", "evaluate", "data", "data", "torchrun", "stream"]
    assert {"sample.wav", "music.wav"} <= {path.name for path in tmp_path.iterdir()}


def chapter_commands() -> list[str]:
    """The shell commands that chapters print, each on one line."""
    chapters = sorted((ROOT / "book").glob("[0-9]*.ipynb"))
    cells = [
        cell for path in chapters for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"
    ]
    code = [match[1] for cell in cells for match in re.finditer(r"```bash\n(.*?)```", cell.source, re.DOTALL)]
    return [line for block in code for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("line", chapter_commands())
def test_every_command_of_a_chapter_is_understood(line):
    program, *words = shlex.split(line)
    if program == "torchrun":
        told = get_args_parser().parse_args(words)
        assert told.module
        assert told.training_script == "sashimi_lib"
        program, words = "sashimi", told.training_script_args
    assert program == "sashimi"
    assert callable(function_of(parsed(words)))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", sorted(MAKE_TARGETS))
def test_every_make_target_can_be_planned(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), blocks("python"), ids=lambda value: value.splitlines()[0])
def test_every_printed_example_runs(name, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tone = 0.2 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    Path("my_recordings").mkdir()
    soundfile.write("my_recording.wav", tone, 16000)
    soundfile.write("my_recordings/tone.flac", tone, 16000)
    for long, short in MINIATURE.items():
        code = code.replace(long, short)
    exec(compile(code, name, "exec"), {"__name__": "example"})


def test_miniatures_stand_for_what_is_printed():
    printed = "".join(code for _, code in blocks("python"))
    assert all(long in printed for long in MINIATURE)


def test_ci_runs_both_commands_and_the_strict_build():
    script = (ROOT / ".ci" / "run").read_text()
    for part in ("make test", "make lint", '-W -n --keep-going"', "pytest tests/book"):
        assert part in script
