"""What a training run leaves on disk: written whole or not at all, read without running code from it."""

import os
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them; an interruption leaves the old file as it was.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.pt"
    >>> save_checkpoint(path, {"step": 3})
    >>> load_checkpoint(path)
    {'step': 3}

    Chapter: 6.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())  # the bytes before the name: or a power cut could leave the name alone
    os.replace(partial, path)  # atomic: a reader sees the old file or the new one


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote. Nothing in the file is executed (``weights_only``).

    Chapter: 6. Raises ValueError, naming the file, for one that is damaged or of another kind.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises what it pleases for a foreign or truncated file
        raise ValueError(f"path must be a checkpoint of this library, got {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"path must hold a dictionary, got {type(content).__name__} in {path}")
    return content
