"""Files of tensors: atomic, of a checked kind, and with a checksum."""

import errno
import os

import pytest
import torch
from safetensors.torch import save

from sashimi_lib.storage.tensor_file import digest, read_tensors, write_tensors


def test_a_failed_write_leaves_the_old_file_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    write_tensors(path, "example 1", "{}", {"x": torch.ones(2)})

    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"Input/output error: .*model"):
        write_tensors(path, "example 1", "{}", {"x": torch.ones(3)})
    assert len(read_tensors(path, "example 1")[1]["x"]) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, "example 1", "{}", {"x": torch.ones(2)})
    with pytest.raises(ValueError, match="expected a sashimi_lib file of kind 'example 2', got 'example 1'"):
        read_tensors(path, "example 2")
    path.write_bytes(save({"x": torch.ones(2)}))
    with pytest.raises(ValueError, match="expected a sashimi_lib file of kind 'example 1', got None"):
        read_tensors(path, "example 1")


@pytest.mark.parametrize(("header", "value"), [("{}", 2.0), ('{"length": 2}', 1.0)])
def test_a_wrong_checksum_is_refused(tmp_path, header, value):
    path = tmp_path / "model.safetensors"
    metadata = {"sashimi_lib": "example 1", "header": header, "sha256": digest("{}", {"x": torch.ones(2)})}
    path.write_bytes(save({"x": torch.full((2,), value)}, metadata))
    with pytest.raises(ValueError, match="damaged file: wrong checksum"):
        read_tensors(path, "example 1")
