"""Carry the repository's public address from book/_config.yml to every file that has to spell it out.

    python -m tools.set_repository                              # after editing `url` in book/_config.yml
    python -m tools.set_repository https://github.com/ORG/REPO  # the same in one step

The address in `tools/colab_bootstrap.py` is the one being replaced, in every tracked file, chapters included.
"""

import argparse
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "book/_config.yml"
BOOTSTRAP = "tools/colab_bootstrap.py"
THIS_FILE = "tools/set_repository.py"
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
        if path.is_symlink() or not path.is_file() or name == THIS_FILE:
            continue
        content = path.read_bytes()
        replaced = re.sub(re.escape(old.encode()) + rb"(?![\w.-]*\w)", new.encode(), content)
        if path.suffix == ".md":  # the line after `git clone`
            replaced = re.sub(rb"(?m)^cd " + re.escape(folder(old)) + rb"$", b"cd " + folder(new), replaced)
        if replaced != content:
            path.write_bytes(replaced)
            changed.append(name)
    return changed


def set_address(address: str | None, root: Path = ROOT) -> list[str]:
    """Set the repository's address, or the one in the configuration; return the files that changed."""
    old = address_in(root, BOOTSTRAP, 'url = "')
    in_config = address_in(root, CONFIG, "url: &repo ")
    new = address.removesuffix("/").removesuffix(".git") if address else in_config
    if not ADDRESS.fullmatch(new):
        raise ValueError(f"address: got {new!r}, expected one like https://github.com/NAME/NAME")
    config = root / CONFIG
    config.write_text(config.read_text().replace(f"url: &repo {in_config}", f"url: &repo {new}"))
    return replace_address(root, old, new) if old != new else []


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("address", nargs="?", help="(default: `url` in book/_config.yml)")
    print("\n".join(set_address(parser.parse_args().address)) or "nothing to change")


if __name__ == "__main__":
    main()
