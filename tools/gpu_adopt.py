"""Adopts the output of a GPU run: results into the book, checkpoints where `tools.train_pretrained` packs
them."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.lib.result import IN_BOOK, ROOT
from sashimi_lib.storage.atomic import atomic_write
from sashimi_lib.training.checkpoint import load_checkpoint

PRETRAINED = ROOT / "runs" / "pretrained"
KEYS = {"name", "question", "command", "date", "device", "versions", "seed", "repeats", "data", "figures"}


class Adopted(NamedTuple):
    """Names of the files that were accepted, and of those that were rejected, with reasons."""

    accepted: list[str]
    rejected: dict[str, str]


def adopt(folder: Path, results: Path = IN_BOOK, pretrained: Path = PRETRAINED) -> Adopted:
    """Copy valid results that were measured on a GPU, and valid checkpoints. A checkpoint that is replaced is
    moved into the folder ``before``. ValueError for a folder that is not of a GPU run."""
    status = read_status(folder)
    adopted = Adopted([], {})
    for path in sorted((folder / "results").glob("*.json")):
        reason = reason_against_result(path)
        if reason:
            adopted.rejected[path.name] = reason
            continue
        with atomic_write(results / path.name) as file:
            file.write(path.read_bytes())
        adopted.accepted.append(path.name)
    for path in sorted((folder / "training").glob("*.pt")):
        reason = reason_against_checkpoint(path, status)
        if reason:
            adopted.rejected[path.name] = reason
            continue
        back_up(pretrained / path.name)
        with atomic_write(pretrained / path.name) as file, open(path, "rb") as source:
            shutil.copyfileobj(source, file)
        adopted.accepted.append(path.name)
    return adopted


def read_status(folder: Path) -> dict[str, Any]:
    """The content of a run's ``status.json``; ValueError if it is missing or invalid."""
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        if not isinstance(status.get("parts"), dict):
            raise ValueError("it has no parts")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder} must hold the status.json of a GPU run: {error}") from error
    return status


def reason_against_result(path: Path) -> str | None:
    """Why a result is rejected; None if it is accepted."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"damaged: {error}"
    if not isinstance(result, dict) or not result.keys() >= KEYS:
        missing = sorted(KEYS - result.keys()) if isinstance(result, dict) else sorted(KEYS)
        return f"not a result: {', '.join(missing)} missing"
    if not str(result["device"]).startswith("GPU"):
        return f"not measured on a GPU: {result['device']}"
    if result["name"] != path.stem:
        return f"its name must be that of its file, got {result['name']}"
    if not path.stem.endswith("_gpu"):
        return f"its name must end in _gpu, got {path.stem}"
    return None if result["figures"] else "it has no figures"


def reason_against_checkpoint(path: Path, status: dict[str, Any]) -> str | None:
    """Why a checkpoint is rejected; None if it is accepted."""
    if not str(status.get("device")).startswith("GPU"):
        return f"not trained on a GPU: {status.get('device')}"
    try:
        load_checkpoint(path)
    except ValueError as error:
        return f"damaged: {error}"
    return None


def back_up(path: Path) -> None:
    """Move a file that is about to be replaced into the folder ``before``."""
    if path.exists():
        backup = path.parent / "before" / path.name
        backup.parent.mkdir(exist_ok=True)
        path.replace(backup)
