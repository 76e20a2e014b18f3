"""Read and write the files of trained models (chapters 7 to 9)."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from sashimi_lib import __version__
from sashimi_lib.audio import check_sample_rate
from sashimi_lib.checks import check_parameters
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.models import Subscale, SubscaleConfig
from sashimi_lib.models.audio_lm import AudioLM, ModelConfig, new_model
from sashimi_lib.models.vocoder import Vocoder, VocoderConfig
from sashimi_lib.pretrained.card import ModelCard, Pretrained, SavableModel
from sashimi_lib.pretrained.golden import check_golden_outputs, golden_outputs
from sashimi_lib.registry import as_object, from_object
from sashimi_lib.storage.tensor_file import read_tensors, write_tensors
from sashimi_lib.streaming.base import Engine

WEIGHTS = Path(__file__).parents[1] / "weights"
FORMAT = "1"


def list_models() -> list[str]:
    """Return the names of the models that ship.

    >>> list_models()[:2]
    ['digits', 'digits16']

    Chapter: 7.
    """
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def load(name: str | Path) -> Pretrained:
    """Load a model that ships, by its name, or a file that `save` wrote, by its path; in float32, on the CPU.

    >>> piano = load("piano")
    >>> piano.sample_rate, piano.card.parameters
    (16000, 1257944)
    >>> piano.model.quantizer.decode(piano.model.generate(100, seed=0)).shape
    torch.Size([1, 100])

    Chapter: 7. Raises ValueError, naming the file and the fault, for a file that is damaged or of another
    kind, whose tensors do not fit its configuration, or whose model fails its self-test.
    """
    path = WEIGHTS / f"{name}.safetensors" if name in list_models() else Path(name)
    if not path.is_file():
        models = ", ".join(list_models())
        raise ValueError(f"name must be one of {models}, or the path of a file; got {str(name)!r}")
    try:
        return _read(path)
    except Exception as error:  # a foreign file may fail anywhere; the message must name it
        raise ValueError(f"path must be a model saved by this library, got {path}: {error}") from error


def check_savable(model: SavableModel) -> None:
    """Raise ValueError unless `load` can restore this model from a file. Builds a new model of its
    configuration: cheap enough to call before hours of training.

    >>> from sashimi_lib.training.recipes import TINY_WAVENET
    >>> model = TINY_WAVENET.build(seed=0)
    >>> check_savable(model)
    >>> model.backbone.register_buffer("gain", torch.ones(4))
    >>> check_savable(model)
    Traceback (most recent call last):
        ...
    ValueError: model must have the tensors of a new model of its config, but differs in backbone.gain: ...

    Chapters: 7 to 9. Raises ValueError for a configuration, quantizer or schedule whose class is not
    registered (`sashimi_lib.registry.register`), for a head that is not the backbone's default, for an
    engine, and for a model whose tensors do not follow from its config: during pruning, or after `sparse`.
    """
    _header(model)


def save(
    path: str | Path,
    model: SavableModel,
    sample_rate: int,
    card: ModelCard,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a trained model to a file that `load` reads. Atomic: an interruption leaves an old file as it
    was.

    ``dtype`` is that of the weights in the file: float16 halves its size and rounds them to three digits.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mine.safetensors"
    >>> from sashimi_lib.training.recipes import TINY_WAVENET
    >>> model = TINY_WAVENET.build(seed=0)
    >>> save(path, model, 16_000, ModelCard("mine", data="my recordings"))
    >>> load(path).card.data
    'my recordings'

    Chapters: 7 to 9. Raises ValueError for an invalid rate, and as `check_savable` does; FloatingPointError
    for weights that are not finite.
    """
    check_sample_rate(sample_rate)
    header = _header(model)
    model = copy.deepcopy(model).cpu().to(dtype).float()  # reference outputs are those of the rounded weights
    check_parameters(model)
    card = dataclasses.replace(
        card,
        parameters=sum(p.numel() for p in model.parameters()),
        library=__version__,
        expected=golden_outputs(model),
    )
    header |= {"sample_rate": sample_rate, "card": card}
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    write_tensors(path, FORMAT, json.dumps(header, default=as_object), tensors)


def _header(model: SavableModel) -> dict[str, Any]:
    """Return the header entries from which `_build` builds the model. Raises ValueError where it cannot."""
    header = _config_entries(model)
    json.dumps(header, default=as_object)
    own, new = _shapes(model), _shapes(_build(header))
    if other := [name for name in sorted(own.keys() | new.keys()) if own.get(name) != new.get(name)]:
        raise ValueError(
            f"model must have the tensors of a new model of its config, but differs in {', '.join(other)}: "
            "finish pruning first (`Pruner.bake_masks`); save the dense model, not a `sparse` one"
        )
    return header


def _shapes(model: SavableModel) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _config_entries(model: SavableModel) -> dict[str, Any]:
    if isinstance(model, DiffusionModel):
        return {"diffusion": model.config}
    if isinstance(model, Subscale | Vocoder):
        return {"model": model.config}
    if isinstance(model, Engine):
        raise ValueError(
            f"model must not be an engine, got the engine {type(model).__name__}: save its `model`"
        )
    core = model.backbone if isinstance(model, AudioLM) else model
    config = getattr(core, "config", None)
    if not isinstance(config, ModelConfig):
        raise ValueError(f"saving a {type(core).__name__} is not supported: it has no `config` of a backbone")
    if isinstance(model, AudioLM):
        _check_default_head(model)
    return {"backbone": config, "quantizer": model.quantizer}


def _check_default_head(model: AudioLM) -> None:
    with torch.random.fork_rng(devices=[]):  # the new head is initialized at random, and dropped
        default = model.backbone.head(model.quantizer)
    if str(model.head) != str(default):  # the classes and sizes of all modules
        raise ValueError(f"model must have its backbone's default head, {default}; got {model.head}")


def _build(header: dict[str, Any]) -> SavableModel:
    with torch.random.fork_rng(devices=[]):  # the initial weights are random, and replaced
        if "diffusion" in header:
            return DiffusionModel(header["diffusion"])
        match header.get("model"):
            case SubscaleConfig() as config:
                return Subscale(config)
            case VocoderConfig() as config:
                return Vocoder(config.cell, config.mel)
        return new_model(header["backbone"], header["quantizer"])


def _read(path: Path) -> Pretrained:
    header, tensors = read_tensors(path, FORMAT, from_object)
    check_sample_rate(header["sample_rate"])
    model = _build(header)
    model.load_state_dict(tensors)
    check_golden_outputs(model, header["card"].expected)
    return Pretrained(model, header["sample_rate"], header["card"])
