"""What a training run leaves on disk: written whole or not at all, read without running code from it."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sashimi_lib.storage.atomic import atomic_write

NAMED = 3  # tensors at most in a message


def save_checkpoint(path: str | Path, content: dict[str, Any], previous: str | Path | None = None) -> None:
    """Write tensors, numbers, strings and containers of them; an interruption leaves the old file as it was.
    With ``previous`` the old one is kept under that name.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.pt"
    >>> save_checkpoint(path, {"step": 3})
    >>> load_checkpoint(path)
    {'step': 3}

    Chapters: 6 and 10. Raises OSError, naming the file, where it cannot be written, as on a full disk.
    """
    with atomic_write(path, previous) as file:
        torch.save(content, file)


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


def previous_of(path: str | Path) -> Path:
    """Where the checkpoint before the last is kept.

    >>> previous_of("runs/piano/run.pt").name
    'run.previous.pt'
    """
    return _beside(path, "previous")


def best_of(path: str | Path) -> Path:
    """Where the best weights of a run are kept, to be used by themselves.

    >>> best_of("exp.1").name, best_of("exp.2").name
    ('exp.best.1', 'exp.best.2')
    """
    return _beside(path, "best")


def _beside(path: str | Path, what: str) -> Path:
    """A file of the same run: another one for every path, also of those that differ after the dot alone."""
    path = Path(path)
    return path.with_name(f"{path.stem}.{what}{path.suffix}")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Give a model the weights of another one of the same shape.

    >>> load_weights(nn.Linear(2, 1), nn.Linear(3, 1).state_dict(), "run.pt")
    Traceback (most recent call last):
        ...
    ValueError: run.pt is of a model of another shape: weight is (1, 3) there and (1, 2) here

    Chapter: 10. Raises ValueError, naming ``source`` and a few of the tensors that differ.
    """
    there = {name: tuple(x.shape) for name, x in weights.items()}
    here = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    other = [
        f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'unknown')} here"
        for name in {**here, **there}
        if there.get(name) != here.get(name)
    ]
    if other:
        raise ValueError(f"{source} is of a model of another shape: {'; '.join(other[:NAMED])}")
    model.load_state_dict(weights)


def checkpoint_exists(path: str | Path) -> bool:
    """Whether there is a checkpoint of a run, the last or the one before.

    >>> checkpoint_exists("nowhere/run.pt")
    False
    """
    return Path(path).exists() or previous_of(path).exists()


def latest_checkpoint(path: str | Path) -> dict[str, Any] | None:
    """The last checkpoint of a run, or the one before where the last is damaged; None of a run not yet begun.

    A damaged one is named in a warning, and set aside as ``NAME.damaged``: the next to be written would
    otherwise push the whole one out.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.pt"
    >>> latest_checkpoint(path) is None
    True
    >>> for step in (1, 2):
    ...     save_checkpoint(path, {"step": step}, previous_of(path))
    >>> latest_checkpoint(path)
    {'step': 2}

    Chapter: 10. Raises ValueError, naming it, for a damaged checkpoint that no other stands in for.
    """
    path, previous = Path(path), previous_of(path)
    if not checkpoint_exists(path):
        return None
    if not path.exists():  # stopped between the two renamings
        return load_checkpoint(previous)
    try:
        return load_checkpoint(path)
    except ValueError as error:
        if not previous.exists():
            raise
        content = load_checkpoint(previous)
        aside = path.with_name(path.name + ".damaged")
        path.replace(aside)
        why = str(error).rstrip(".")
        warnings.warn(f"{why}. It is now {aside}; the run goes on from {previous}", stacklevel=2)
        return content
