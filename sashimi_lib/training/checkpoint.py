"""Checkpoints of training runs: written atomically, loaded without executing code from the file."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sashimi_lib.storage.atomic import atomic_write

MAX_NAMED = 3  # tensors that an error message lists


def save_checkpoint(path: str | Path, content: dict[str, Any], previous: str | Path | None = None) -> None:
    """Write tensors, numbers, strings and containers of them to a file, atomically.

    An interruption leaves the old file as it was. With ``previous``, the old file is renamed to that path.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.pt"
    >>> save_checkpoint(path, {"step": 3})
    >>> load_checkpoint(path)
    {'step': 3}

    Chapters: 6 and 10. Raises OSError, naming the file, if it cannot be written, as on a full disk.
    """
    with atomic_write(path, previous) as file:
        torch.save(content, file)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load what `save_checkpoint` wrote, on the CPU. Nothing in the file is executed (``weights_only``).

    Chapter: 6. Raises ValueError, naming the file, if it is damaged or not a checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch.load raises many types for a foreign or truncated file
        raise ValueError(f"path must be a checkpoint of this library, got {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"path must hold a dictionary, got {type(content).__name__} in {path}")
    return content


def previous_of(path: str | Path) -> Path:
    """Return the path of the previous checkpoint of a run.

    >>> previous_of("runs/piano/run.pt").name
    'run.previous.pt'
    """
    return _beside(path, "previous")


def best_of(path: str | Path) -> Path:
    """Return the path of the best weights of a run.

    >>> best_of("exp.1").name, best_of("exp.2").name
    ('exp.best.1', 'exp.best.2')
    """
    return _beside(path, "best")


def _beside(path: str | Path, name: str) -> Path:
    """Return the path of another file of a run; it differs for paths that differ in their suffix alone."""
    path = Path(path)
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load the weights of a model of the same architecture.

    >>> load_weights(nn.Linear(2, 1), nn.Linear(3, 1).state_dict(), "run.pt")
    Traceback (most recent call last):
        ...
    ValueError: run.pt holds a model of other layer sizes: weight is (1, 3) in the file, (1, 2) in the model

    Chapter: 10. Raises ValueError, naming ``source`` and a few of the tensors that differ.
    """
    saved = {name: tuple(x.shape) for name, x in weights.items()}
    expected = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    mismatches = [
        f"{name} is {saved.get(name, 'missing')} in the file, {expected.get(name, 'missing')} in the model"
        for name in {**expected, **saved}
        if saved.get(name) != expected.get(name)
    ]
    if mismatches:
        raise ValueError(f"{source} holds a model of other layer sizes: {'; '.join(mismatches[:MAX_NAMED])}")
    model.load_state_dict(weights)


def checkpoint_exists(path: str | Path) -> bool:
    """Return whether a run has a checkpoint, the latest or the previous one.

    >>> checkpoint_exists("nowhere/run.pt")
    False
    """
    return Path(path).exists() or previous_of(path).exists()


def latest_checkpoint(path: str | Path) -> dict[str, Any] | None:
    """Load the latest checkpoint of a run, or the previous one if the latest is damaged; None if there is
    none.

    A damaged checkpoint is renamed to ``NAME.damaged``, with a warning, so that the next `save_checkpoint`
    does not replace the intact one by it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.pt"
    >>> latest_checkpoint(path) is None
    True
    >>> for step in (1, 2):
    ...     save_checkpoint(path, {"step": step}, previous_of(path))
    >>> latest_checkpoint(path)
    {'step': 2}

    Chapter: 10. Raises ValueError, naming the file, if no checkpoint is intact.
    """
    path, previous = Path(path), previous_of(path)
    if not checkpoint_exists(path):
        return None
    if not path.exists():  # interrupted between the two renames of `save_checkpoint`
        return load_checkpoint(previous)
    try:
        return load_checkpoint(path)
    except ValueError as error:
        if not previous.exists():
            raise
        content = load_checkpoint(previous)
        damaged = path.with_name(path.name + ".damaged")
        path.replace(damaged)
        reason = str(error).rstrip(".")
        warnings.warn(f"{reason}. Renamed to {damaged}; the run resumes from {previous}", stacklevel=2)
        return content
