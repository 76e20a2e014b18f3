"""The code in CONTRIBUTING.md runs: a backbone outside of the package works like those of the library."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.models.audio_lm import new_model
from sashimi_lib.models.heads import DualSoftmax
from sashimi_lib.pretrained import ModelCard, load, save
from tests import contract

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PRINTED = re.findall(r"^```python\n((?:.*\n)*?)```$", TEXT, re.MULTILINE)
FILES = {match[1]: code for code in PRINTED if (match := re.match(r"# (\w+\.py)\n", code))}
(SCRIPT,) = (code for code in PRINTED if code not in FILES.values())


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """Change to a folder with the printed files, from which they can be imported."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gru", raising=False)
    yield
    sys.modules.pop("gru", None)


@pytest.fixture
def gru():
    return importlib.import_module("gru")


def python(*arguments):
    """Run Python in a new process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_example_is_checked_trained_saved_loaded_and_streamed(gru):
    names = {}
    exec(SCRIPT, names)
    assert len(names["history"].loss) == 2
    assert isinstance(names["loaded"].backbone, gru.GRU)
    assert torch.equal(names["codes"], names["model"].generate(320, seed=0))
    assert torch.equal(torch.cat(names["chunks"], dim=1), names["loaded"].quantizer.decode(names["codes"]))


@pytest.mark.parametrize("dtype", contract.TOLERANCE, ids=str)
def test_the_example_keeps_the_contract_of_a_layer(gru, dtype):
    case = contract.Case(lambda: gru.GRUConfig(3).build(), 3)
    contract.assert_modes_agree(case, dtype)
    contract.assert_no_state_is_initial_state(case)
    contract.assert_state_is_an_argument(case)
    contract.assert_receptive_field(case, lambda layer, x: layer(x)[0])


def test_the_example_models_16_bits_too(gru):
    model = new_model(gru.GRUConfig(8), CoarseFine())
    assert isinstance(model.head, DualSoftmax)
    save("sixteen.safetensors", model, 16_000, ModelCard("sixteen"))
    assert torch.equal(load("sixteen.safetensors").model.generate(9), model.generate(9))


def test_its_file_is_refused_unless_its_module_is_imported(gru):
    save("gru.safetensors", new_model(gru.GRUConfig(8), MuLaw()), 16_000, ModelCard("gru"))
    reading = "from sashimi_lib.pretrained import load; load('gru.safetensors')"
    done = python("-c", reading)
    assert done.returncode == 1
    assert "class GRUConfig is not registered: import the module that defines it first" in done.stderr
    assert "sashimi_lib.registry.register" in done.stderr
    assert python("-c", f"import gru; {reading}").returncode == 0


@pytest.mark.slow
def test_the_command_line_trains_its_recipe(gru):
    Path("my_recordings").mkdir()
    for number in range(3):
        soundfile.write(
            f"my_recordings/{number}.wav", 0.2 * np.sin(0.1 * (1 + number) * np.arange(4000)), 16_000
        )
    words = [*["train", "small_gru", "--data", "my_recordings", "--device", "cpu"], "--model.d-model", "4"]
    done = python("train_gru.py", *words, "--steps", "2", "--length", "128")
    assert done.returncode == 0, done.stderr
    assert load("runs/small_gru/model.safetensors").model.backbone.config == gru.GRUConfig(4)


def test_the_printed_commands_exist():
    targets = re.findall(r"^make (\w+)", TEXT, re.MULTILINE)
    assert targets
    assert set(targets) <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
