"""Models that ship with the library, and files of trained models (chapters 7 to 9).

A file is a safetensors file: tensors and a JSON header. The header holds the configuration of the model, its
sampling rate, a card (training data, credit, evaluation) and reference outputs, which `load` verifies.
Nothing in a file is executed. Credits for the models that ship are in ``sashimi_lib/weights/CREDITS.md``.
"""

from sashimi_lib.pretrained.bundled import bundled_bits
from sashimi_lib.pretrained.card import GoldenAudio, GoldenOutputs, ModelCard, Pretrained
from sashimi_lib.pretrained.files import WEIGHTS, check_savable, list_models, load, save

__all__ = [
    "WEIGHTS",
    "GoldenAudio",
    "GoldenOutputs",
    "ModelCard",
    "Pretrained",
    "bundled_bits",
    "check_savable",
    "list_models",
    "load",
    "save",
]
