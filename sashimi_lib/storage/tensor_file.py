"""Files of tensors with a JSON header and a checksum, written atomically and read without executing code.

They are safetensors files whose metadata holds three more entries: the kind of file and its version, a JSON
header, and a SHA-256 checksum of header and tensors.
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
    """Write tensors and a JSON header atomically.

    >>> import tempfile, torch
    >>> path = Path(tempfile.mkdtemp()) / "example.safetensors"
    >>> write_tensors(path, "example 1", '{"length": 2}', {"x": torch.ones(2)})
    >>> read_tensors(path, "example 1")
    ({'length': 2}, {'x': tensor([1., 1.])})

    ``kind`` is the kind of file and its version. Chapter: 7. Raises OSError, naming the file, if it cannot be
    written.
    """
    metadata = {"sashimi_lib": kind, "header": header, "sha256": digest(header, tensors)}
    with atomic_write(path) as file:
        file.write(to_bytes(dict(tensors), metadata))


def read_tensors(
    path: str | Path, kind: str, object_hook: Any = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors of a file; ``object_hook`` is passed to `json.loads`.

    Chapter: 7. Raises ValueError for a file of another kind and for a wrong checksum, and the errors of
    safetensors for a file that is not in its format. The caller adds the name of the file.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("sashimi_lib") != kind:
        found = metadata.get("sashimi_lib")
        raise ValueError(f"expected a sashimi_lib file of kind {kind!r}, got {found!r}")
    if metadata.get("sha256") != digest(metadata["header"], tensors):
        raise ValueError("damaged file: wrong checksum")
    return json.loads(metadata["header"], object_hook=object_hook), tensors


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 checksum of a text and of tensors with their names, dtypes and shapes.

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
