"""Small trained models that ship with the library, and files for your own (chapters 7 and 8).

A file is a safetensors file: tensors, and a header of text. The header says how the model is built, at what
rate it sings, what it learnt from, how well it does, and what it must say once it is loaded. Nothing in a
file is executed. Credits for the models that ship lie beside them, in ``sashimi_lib/weights/CREDITS.md``.
"""

import copy
import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from sashimi_lib import __version__
from sashimi_lib.audio import check_sample_rate
from sashimi_lib.autoregressive import AudioLM, Autoregressive, ModelConfig, new_model
from sashimi_lib.data import bundled
from sashimi_lib.models import (
    IsotropicConfig,
    SampleRNNConfig,
    SaShiMiConfig,
    WaveNetConfig,
    WaveRNNConfig,
)
from sashimi_lib.quantize import CoarseFine, Linear, MuLaw
from sashimi_lib.ssm.s4 import Form, SSMConfig
from sashimi_lib.training.guard import check_parameters
from sashimi_lib.training.validation import held_out

WEIGHTS = Path(__file__).parent / "weights"
FORMAT = "1"
DRAWN, TOLERANCE = 64, 1e-3  # codes that a model is recognised by, and by how many bits it may miss them


@dataclass(frozen=True)
class Expected:
    """What a model says when it is loaded well: the first codes that seed 0 draws, the same as a waveform,
    and the bits per sample that these codes cost. A 16-bit sample is a pair of codes.

    The bits hold on every machine, and `load` checks them. The draw holds wherever PyTorch's generator gives
    the same random numbers.
    """

    codes: tuple[int, ...] | tuple[tuple[int, int], ...]
    waveform: tuple[float, ...]
    bits: float


@dataclass(frozen=True)
class Card:
    """What a file tells of its model. Bits are bits per sample, and None where nobody measured.

    ``data`` is what it learnt from, ``credit`` whom to thank and under which licence; ``steps`` are those of
    its training and ``samples`` what it heard in them. ``test_bits`` and ``bigram_bits`` are what recordings
    that were kept apart cost it, and a table of pairs; ``bundled_bits`` is what `bundled_bits` gives. The
    last three, `save` fills in.
    """

    name: str
    data: str = ""
    credit: str = ""
    steps: int = 0
    samples: int = 0
    test_bits: float | None = None
    bigram_bits: float | None = None
    bundled_bits: float | None = None
    parameters: int = 0
    library: str = __version__
    expected: Expected | None = None


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained model, the rate of its sound in Hz, and its card."""

    model: Autoregressive
    sample_rate: int
    card: Card


# All that a header may name: plain values, which check their settings themselves.
_VALUES = (
    Card, CoarseFine, Expected, IsotropicConfig, Linear, MuLaw, SampleRNNConfig, SaShiMiConfig, SSMConfig,
    WaveNetConfig, WaveRNNConfig,
)  # fmt: skip
_CLASSES: dict[str, Any] = {kind.__name__: kind for kind in _VALUES}


def names() -> list[str]:
    """The models that ship.

    >>> names()
    ['digits', 'digits16', 'piano', 'wavernn']

    Chapter: 7.
    """
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def load(name: str | Path) -> Pretrained:
    """A model that ships, by its name, or one that `save` wrote, by its path; in float32, on the CPU.

    >>> piano = load("piano")
    >>> piano.sample_rate, piano.card.parameters
    (16000, 1257944)
    >>> piano.model.quantizer.decode(piano.model.generate(100, seed=0)).shape
    torch.Size([1, 100])

    Chapter: 7. Raises ValueError, naming the file and what is wrong, for one that is damaged, of another kind
    or of another format, whose tensors do not fit its model, or whose model does not say what it should.
    """
    path = WEIGHTS / f"{name}.safetensors" if name in names() else Path(name)
    if not path.is_file():
        raise ValueError(f"name must be one of {', '.join(names())}, or a file's path; got {str(name)!r}")
    try:
        return _read(path)
    except Exception as error:  # a foreign file may fail anywhere, and a reader wants to know which it was
        raise ValueError(f"path must be a model that this library saved, got {path}: {error}") from error


def save(
    path: str | Path,
    model: Autoregressive,
    sample_rate: int,
    card: Card,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a trained model so that `load` can bring it back; an interruption leaves the old file as it was.

    ``dtype`` is how the file keeps the weights: float16 makes it half as large, and rounds them to three
    decimals.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mine.safetensors"
    >>> model = new_model(WaveNetConfig(1, 2, 4, 4, 4, 4, 4), MuLaw())
    >>> save(path, model, 16_000, Card("mine", data="my recordings"))
    >>> load(path).card.data
    'my recordings'

    Chapters: 7 and 8. Raises ValueError for a rate that is none, a backbone that is not of this library and
    a head that is not the backbone's own; and FloatingPointError for weights that are not finite.
    """
    check_sample_rate(sample_rate)
    config = _config(model)
    model = copy.deepcopy(model).cpu().to(dtype).float()  # what the file keeps is what it expects
    check_parameters(model)
    header = {
        "backbone": config,
        "quantizer": model.quantizer,
        "sample_rate": sample_rate,
        "card": dataclasses.replace(
            card,
            parameters=sum(p.numel() for p in model.parameters()),
            library=__version__,
            expected=_expected(model),
        ),
    }
    text = json.dumps(header, default=_as_object)
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    metadata = {"sashimi_lib": FORMAT, "header": text, "sha256": _digest(text, tensors)}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(to_bytes(tensors, metadata))
    os.replace(partial, path)  # atomic: a reader sees the old file or the new one


def bundled_bits(model: Autoregressive, sample_rate: int) -> float:
    """Bits per sample of what ships with the library, so that anybody can measure them again: the held-out
    piano, by two seconds at a time, for a model at 16 kHz; the ten spoken digits for one at 8 kHz.

    They differ from what the models of this library learnt from: the piano is a rendered one and louder, the
    digits are another voice's. So these figures are for comparing, `Card.test_bits` for judging.

    Chapter: 7. Raises ValueError for another rate.
    """
    if sample_rate == 16_000:
        sounds = list(bundled.piano().test.split(2 * sample_rate))
    elif sample_rate == 8_000:
        sounds = [clip.waveform for clip in bundled.spoken_digits().values()]
    else:
        raise ValueError(f"sample_rate must be 8000 or 16000, as of the clips that ship, got {sample_rate}")
    return held_out(model, [model.quantizer.encode(sound) for sound in sounds], truncate=4096)


def _config(model: Autoregressive) -> ModelConfig:
    """What `new_model` builds the model from. ValueError for a model that it would not build."""
    core = model.backbone if isinstance(model, AudioLM) else model
    config: Any = getattr(core, "config", None)
    if type(config) not in _VALUES:
        raise ValueError(f"model must have a backbone of this library, got {type(core).__name__}")
    if isinstance(model, AudioLM):
        with torch.random.fork_rng(devices=[]):  # a head is drawn at random, and only looked at
            own = model.backbone.head(model.quantizer)
        if str(model.head) != str(own):  # classes and sizes, of it and of its parts
            raise ValueError(f"model must have its backbone's own head, {own}; got {model.head}")
    return config


def _read(path: Path) -> Pretrained:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("sashimi_lib") != FORMAT:
        raise ValueError(f"its format must be {FORMAT}, got {metadata.get('sashimi_lib')}")
    if metadata.get("sha256") != _digest(metadata["header"], tensors):
        raise ValueError("it is damaged: its checksum is another")
    header = json.loads(metadata["header"], object_hook=_from_object)
    check_sample_rate(header["sample_rate"])
    with torch.random.fork_rng(devices=[]):  # the first weights are random, and do not last
        model = new_model(header["backbone"], header["quantizer"])
    model.load_state_dict(tensors)
    expected = header["card"].expected
    bits = _bits(model, torch.tensor([expected.codes]))
    if not abs(bits - expected.bits) < TOLERANCE:
        raise ValueError(f"what it drew must cost {expected.bits} bits per sample, and costs {bits}")
    return Pretrained(model, header["sample_rate"], header["card"])


@torch.no_grad()
def _expected(model: Autoregressive) -> Expected:
    codes = model.generate(DRAWN, seed=0)
    waveform = model.quantizer.decode(codes)
    return Expected(_frozen(codes[0].tolist()), _frozen(waveform[0].tolist()), _bits(model, codes))


@torch.no_grad()
def _bits(model: Autoregressive, codes: Tensor) -> float:
    return -float(model.log_likelihood(codes).mean())


def _as_object(value: Any) -> dict[str, Any]:
    """A value as JSON's kind of object, which says its class. Tuples become lists by themselves."""
    return {"class": type(value).__name__, **vars(value)}


def _from_object(entries: dict[str, Any]) -> Any:
    """The value that such an object describes; the header itself names no class and stays as it is."""
    if "class" not in entries:
        return entries
    kind = entries.pop("class")
    if kind not in _CLASSES:
        raise ValueError(f"class must be one of {', '.join(_CLASSES)}, got {kind!r}")
    if kind == "SSMConfig":
        entries["form"] = Form(entries["form"])
    return _CLASSES[kind](**{name: _frozen(entry) for name, entry in entries.items()})


def _frozen(value: Any) -> Any:
    """A value with tuples in place of lists, inside as well."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return sha.hexdigest()
