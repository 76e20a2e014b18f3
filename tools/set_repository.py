"""Carry the repository's public address from book/_config.yml to every file that has to spell it out.

    python tools/set_repository.py                              # after editing `url` in book/_config.yml
    python tools/set_repository.py https://github.com/ORG/REPO  # the same in one step

The address in `tools/colab_bootstrap.py` is the one being replaced, in every tracked file, chapters included.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "book/_config.yml"
BOOTSTRAP = "tools/colab_bootstrap.py"
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")


def address_in(root: Path, name: str, before: str) -> str:
    """Return the address that follows `before` in a file; raise ValueError where there is none."""
    text = (root / name).read_text()
    found = re.search(re.escape(before) + f"({ADDRESS.pattern})", text)
    if found is None:
        raise ValueError(f"{name}: expected an address like https://github.com/NAME/NAME after {before!r}")
    return found[1]


def folder(address: str) -> bytes:
    """Return the name of the folder that `git clone` makes."""
    return address.rsplit("/", 1)[1].encode()


def replace_address(root: Path, old: str, new: str) -> list[str]:
    """Replace `old` by `new` in all tracked text files below `root`; return the files that changed."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True)
    changed = []
    for name in filter(None, listed.stdout.split("\0")):
        path = root / name
        if path.is_symlink() or not path.is_file() or name == "tools/set_repository.py":
            continue
        content = path.read_bytes()
        replaced = re.sub(re.escape(old.encode()) + rb"(?![\w.-]*\w)", new.encode(), content)
        if path.suffix == ".md":  # the line after `git clone`
            replaced = re.sub(rb"(?m)^cd " + re.escape(folder(old)) + rb"$", b"cd " + folder(new), replaced)
        if replaced != content:
            path.write_bytes(replaced)
            changed.append(name)
    return changed


def main(arguments: list[str], root: Path = ROOT) -> list[str]:
    """Set the address to the argument, or to what the configuration says; return the files that changed."""
    old = address_in(root, BOOTSTRAP, 'url = "')
    in_config = address_in(root, CONFIG, "url: &repo ")
    new = arguments[0].removesuffix("/").removesuffix(".git") if arguments else in_config
    if not ADDRESS.fullmatch(new):
        raise ValueError(f"address: got {new!r}, expected one like https://github.com/NAME/NAME")
    config = root / CONFIG
    config.write_text(config.read_text().replace(f"url: &repo {in_config}", f"url: &repo {new}"))
    return replace_address(root, old, new) if old != new else []


if __name__ == "__main__":
    print("\n".join(main(sys.argv[1:])) or "nothing to change")
