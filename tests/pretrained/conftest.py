"""A small model, and its file."""

import pytest

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.pretrained import ModelCard, save
from tests.pretrained.cases import BACKBONES


@pytest.fixture
def model():
    return AudioLM(MuLaw(), BACKBONES["wavenet"].build())


@pytest.fixture
def file(model, tmp_path):
    path = tmp_path / "mine.safetensors"
    save(path, model, 8000, ModelCard("mine"))
    return path
