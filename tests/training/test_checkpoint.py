"""Checkpoints: the latest intact one is loaded; a full disk leaves them as they are."""

import os
import subprocess
import sys

import pytest
import torch

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    previous_of,
    save_checkpoint,
)
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.trainer import train

CONFIG = TrainingConfig(steps=8, batch_size=2, checkpoint_every=2)


@pytest.fixture
def path(tmp_path):
    """The path of a run with two checkpoints."""
    path = tmp_path / "run.pt"
    for step in (1, 2):
        save_checkpoint(path, {"step": step}, previous_of(path))
    return path


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_previous_checkpoint_is_kept(path):
    assert names(path.parent) == ["run.previous.pt", "run.pt"]
    assert [load_checkpoint(file)["step"] for file in (previous_of(path), path)] == [1, 2]
    assert latest_checkpoint(path) == {"step": 2}


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half", None])
def test_a_damaged_checkpoint_is_renamed_and_the_previous_one_loaded(path, damage):
    content = path.read_bytes()
    path.write_bytes(content[:-7] if damage is None else damage)
    with pytest.warns(UserWarning, match=r"Renamed to .*run\.pt\.damaged; the run resumes from .*previous"):
        assert latest_checkpoint(path) == {"step": 1}
    assert names(path.parent) == ["run.previous.pt", "run.pt.damaged"]
    assert latest_checkpoint(path) == {"step": 1}
    save_checkpoint(path, {"step": 2}, previous_of(path))
    assert latest_checkpoint(path) == {"step": 2}
    assert load_checkpoint(previous_of(path)) == {"step": 1}


def test_without_an_intact_checkpoint_the_error_names_the_file_and_none_is_lost(path):
    for file in (path, previous_of(path)):
        file.write_bytes(b"half")
    with pytest.raises(ValueError, match=r"previous\.pt"):
        latest_checkpoint(path)
    assert names(path.parent) == ["run.previous.pt", "run.pt"]
    previous_of(path).unlink()
    with pytest.raises(ValueError, match=r"run\.pt"):
        latest_checkpoint(path)


def test_a_run_resumes_from_the_latest_intact_checkpoint_with_equal_results(tmp_path):
    def train_model(checkpoint, steps_until=None):
        torch.manual_seed(1)
        model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)))
        codes = torch.arange(6 * 40).view(6, 40)
        calls = []
        return model, train(
            model, codes, CONFIG, checkpoint, on_step=lambda step, _: calls.append(step), progress=False,
            stop=lambda: len(calls) == steps_until,
        ), calls  # fmt: skip

    whole, history, _ = train_model(None)
    path = tmp_path / "run.pt"
    train_model(path, steps_until=6)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"run\.previous\.pt"):
        again, resumed, calls = train_model(path)
    assert calls[0] == 4  # the previous checkpoint is that after four steps
    assert resumed == history
    assert all(torch.equal(x, y) for x, y in zip(whole.parameters(), again.parameters(), strict=True))


FULL = """
set -e
mount -t tmpfs -o size=256k none "$1"
"$2" - "$1" <<'PYTHON'
{script}
PYTHON
"""
SCRIPT = """
import sys, torch
from pathlib import Path
from sashimi_lib.storage.tensor_file import read_tensors, write_tensors
from sashimi_lib.training.checkpoint import *
folder = Path(sys.argv[1])
path, tensors = folder / "run.pt", folder / "model.safetensors"
write_tensors(tensors, "example 1", "{}", {"x": torch.ones(10)})
for step in (1, 2):
    save_checkpoint(path, {"step": step, "x": torch.zeros(10_000)}, previous_of(path))
for write in (
    lambda: save_checkpoint(path, {"step": 3, "x": torch.zeros(60_000)}, previous_of(path)),
    lambda: write_tensors(tensors, "example 1", "{}", {"x": torch.ones(60_000)}),
):
    try:
        write()
    except OSError as error:
        print(error)
print(sorted(file.name for file in folder.iterdir()))
print(latest_checkpoint(path)["step"], load_checkpoint(previous_of(path))["step"])
print(len(read_tensors(tensors, "example 1")[1]["x"]))
"""


def test_a_full_disk_is_reported_and_existing_files_stay(tmp_path, root, unshared):
    command = [*unshared, "bash", "-c", FULL.format(script=SCRIPT), "full"]
    done = subprocess.run(
        [*command, str(tmp_path), sys.executable],
        env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"[Errno 28] No space left on device: '{tmp_path}/run.pt'",
        f"[Errno 28] No space left on device: '{tmp_path}/model.safetensors'",
        "['model.safetensors', 'run.previous.pt', 'run.pt']",
        "2 1",
        "10",
    ]
