"""Files of tensors with a header of text, whole or not at all, and read without running code from them.

They are safetensors files. That format says what tensors there are; ours adds of which kind the file is, a
header in JSON, and a checksum over all of it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from sashimi_lib.storage.atomic import atomic_write


def write_tensors(path: str | Path, kind: str, header: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and a header, which is JSON; an interruption leaves the old file as it was.

    >>> import tempfile, torch
    >>> path = Path(tempfile.mkdtemp()) / "mine.safetensors"
    >>> write_tensors(path, "example 1", '{"length": 2}', {"x": torch.ones(2)})
    >>> read_tensors(path, "example 1")
    ({'length': 2}, {'x': tensor([1., 1.])})

    ``kind`` names what is in it and the version of that. Chapter: 7. Raises OSError, naming the file, where
    it cannot be written.
    """
    metadata = {"sashimi_lib": kind, "header": header, "sha256": digest(header, tensors)}
    with atomic_write(path) as file:
        file.write(to_bytes(dict(tensors), metadata))


def read_tensors(
    path: str | Path, kind: str, object_hook: Any = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of such a file; ``object_hook`` is that of `json.loads`.

    Chapter: 7. Raises ValueError for a file of another kind and for one whose checksum is another; and
    whatever safetensors raises for one that is none of its own.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("sashimi_lib") != kind:
        raise ValueError(f"its format must be {kind}, got {metadata.get('sashimi_lib')}")
    if metadata.get("sha256") != digest(metadata["header"], tensors):
        raise ValueError("it is damaged: its checksum is another")
    return json.loads(metadata["header"], object_hook=object_hook), tensors


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """A checksum (SHA-256) of a text and of tensors, with their names, types and shapes.

    >>> import torch
    >>> digest("", {"x": torch.zeros(1)}) == digest("", {"x": torch.zeros(1, 1)})
    False

    Chapter: 7.
    """
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return sha.hexdigest()
