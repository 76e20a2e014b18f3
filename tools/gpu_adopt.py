"""What a GPU run brought home: results go into the book, the trained checkpoint to where it is packed."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "benchmarks")]

from result import IN_BOOK

from sashimi_lib.storage.atomic import atomic_write
from sashimi_lib.training.checkpoint import load_checkpoint

PRETRAINED = ROOT / "runs" / "pretrained"
KEYS = {"name", "question", "command", "date", "device", "versions", "seed", "repeats", "data", "figures"}


class Adopted(NamedTuple):
    """Names of files that were taken; and of those that were refused, with why."""

    taken: list[str]
    refused: dict[str, str]


def adopt(folder: Path, results: Path = IN_BOOK, pretrained: Path = PRETRAINED) -> Adopted:
    """Take what is whole and was measured on a GPU. A checkpoint that is replaced is kept in ``before``.

    Raises ValueError for a folder that no GPU run wrote.
    """
    status = read_status(folder)
    adopted = Adopted([], {})
    for path in sorted((folder / "results").glob("*.json")):
        why = wrong_with(path)
        if why:
            adopted.refused[path.name] = why
            continue
        with atomic_write(results / path.name) as file:
            file.write(path.read_bytes())
        adopted.taken.append(path.name)
    for path in sorted((folder / "training").glob("*.pt")):
        why = wrong_with_checkpoint(path, status)
        if why:
            adopted.refused[path.name] = why
            continue
        put_aside(pretrained / path.name)
        with atomic_write(pretrained / path.name) as file, open(path, "rb") as source:
            shutil.copyfileobj(source, file)
        adopted.taken.append(path.name)
    return adopted


def read_status(folder: Path) -> dict[str, Any]:
    """``status.json`` of a run."""
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        if not isinstance(status.get("parts"), dict):
            raise ValueError("it names no parts")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder} must hold the status.json of a GPU run: {error}") from error
    return status


def wrong_with(path: Path) -> str | None:
    """Why a result is not to be taken; None where it is."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"it is damaged: {error}"
    if not isinstance(result, dict) or not result.keys() >= KEYS:
        missing = sorted(KEYS - result.keys()) if isinstance(result, dict) else sorted(KEYS)
        return f"it is no result: {', '.join(missing)} missing"
    if not str(result["device"]).startswith("GPU"):
        return f"it was not measured on a GPU: {result['device']}"
    if result["name"] != path.stem or not path.stem.endswith("_gpu"):
        return f"it is not a result of its name: {result['name']}"
    return None if result["figures"] else "it holds no figures"


def wrong_with_checkpoint(path: Path, status: dict[str, Any]) -> str | None:
    """Why a checkpoint is not to be taken; None where it is."""
    if not str(status.get("device")).startswith("GPU"):
        return f"it was not trained on a GPU: {status.get('device')}"
    try:
        load_checkpoint(path)
    except ValueError as error:
        return f"it is damaged: {error}"
    return None


def put_aside(path: Path) -> None:
    """Keep what is about to be replaced."""
    if path.exists():
        aside = path.parent / "before" / path.name
        aside.parent.mkdir(exist_ok=True)
        path.replace(aside)
