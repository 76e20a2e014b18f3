"""Small trained models that ship with the library, and files for your own (chapters 7 to 9).

A file is a safetensors file: tensors, and a header of text. The header says how the model is built, at what
rate it sings, what it learnt from, how well it does, and what it must say once it is loaded. Nothing in a
file is executed. Credits for the models that ship lie beside them, in ``sashimi_lib/weights/CREDITS.md``.
"""

import copy
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sashimi_lib import __version__
from sashimi_lib.audio import check_sample_rate
from sashimi_lib.audio.mel import LogMel
from sashimi_lib.checks import check_parameters
from sashimi_lib.data import bundled
from sashimi_lib.data.split import FileLists
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.diffusion.samplers import DPM_SOLVER
from sashimi_lib.models import Subscale, SubscaleConfig
from sashimi_lib.models.audio_lm import AudioLM, ModelConfig, new_model
from sashimi_lib.models.autoregressive import DiscreteAudioModel
from sashimi_lib.models.vocoder import Vocoder, VocoderConfig
from sashimi_lib.registry import as_object, as_tuples, from_object, register
from sashimi_lib.storage.tensor_file import read_tensors, write_tensors
from sashimi_lib.streaming.base import Engine
from sashimi_lib.training.validation import validation_loss

WEIGHTS = Path(__file__).parent / "weights"
FORMAT = "1"
DRAWN, TOLERANCE = 64, 1e-3  # samples that a model is recognised by, and how far off its figures may be
HEARD = 8  # samples of them of which a diffusion model says more


@register
@dataclass(frozen=True)
class GoldenOutputs:
    """What a model says when it is loaded well: the first codes that seed 0 draws, the same as a waveform,
    and the bits per sample that these codes cost. A 16-bit sample is a pair of codes.

    The bits hold on every machine, and `load` checks them. The draw holds wherever PyTorch's generator gives
    the same random numbers.
    """

    codes: tuple[int, ...] | tuple[tuple[int, int], ...]
    waveform: tuple[float, ...]
    bits: float


@register
@dataclass(frozen=True)
class GoldenAudio:
    """The same of a diffusion model: the first samples that seed 0 makes, and what the model takes for noise
    in the first eight of them, at the middle of its schedule; a row for each class that it can be told, or
    one alone.

    The noise holds on every machine, and `load` checks it.
    """

    waveform: tuple[float, ...]
    noise: tuple[tuple[float, ...], ...]


@register
@dataclass(frozen=True)
class ModelCard:
    """What a file tells of its model. Bits are bits per sample, and None where nobody measured.

    ``data`` is what it learnt from, ``credit`` whom to thank and under which licence; ``steps`` are those of
    its training and ``samples`` what it heard in them. ``test_bits`` and ``bigram_bits`` are what recordings
    that were kept apart cost it, and a table of pairs; ``bundled_bits`` is what `bundled_bits` gives.
    ``test_loss`` is the mean squared error of a diffusion model on recordings that were kept apart.
    ``recordings`` are the files that each part of a folder of one's own had. The last three, `save` fills in.
    """

    name: str
    data: str = ""
    credit: str = ""
    steps: int = 0
    samples: int = 0
    test_bits: float | None = None
    bigram_bits: float | None = None
    bundled_bits: float | None = None
    test_loss: float | None = None
    recordings: FileLists | None = None
    parameters: int = 0
    library: str = __version__
    expected: GoldenOutputs | GoldenAudio | None = None


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained model, the rate of its sound in Hz, and its card."""

    model: DiscreteAudioModel | DiffusionModel
    sample_rate: int
    card: ModelCard


def names() -> list[str]:
    """The models that ship.

    >>> names()
    ['digits', 'digits16', 'digits_diffusion', 'piano', 'wavernn']

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


def check_savable(model: DiscreteAudioModel | DiffusionModel) -> None:
    """Raise ValueError unless `save` can write this model so that `load` brings it back. Costs what a new
    model of that shape costs: worth asking before hours of training.

    >>> from sashimi_lib.training.recipes import TINY_WAVENET
    >>> model = TINY_WAVENET.build(seed=0)
    >>> check_savable(model)
    >>> model.backbone.register_buffer("gain", torch.ones(4))
    >>> check_savable(model)
    Traceback (most recent call last):
        ...
    ValueError: model must have the tensors of a new one of its config, ... differs in backbone.gain: ...

    Chapters: 7 to 9. Raises it for a configuration, quantizer or schedule whose class is not registered
    (`sashimi_lib.registry.register`), for a head that is not the backbone's own, for an engine, and for a
    model whose tensors are not those of its config: one that is being pruned, or made sparse.
    """
    _header(model)


def save(
    path: str | Path,
    model: DiscreteAudioModel | DiffusionModel,
    sample_rate: int,
    card: ModelCard,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a trained model so that `load` can bring it back; an interruption leaves the old file as it was.

    ``dtype`` is how the file keeps the weights: float16 makes it half as large, and rounds them to three
    decimals.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mine.safetensors"
    >>> from sashimi_lib.training.recipes import TINY_WAVENET
    >>> model = TINY_WAVENET.build(seed=0)
    >>> save(path, model, 16_000, ModelCard("mine", data="my recordings"))
    >>> load(path).card.data
    'my recordings'

    Chapters: 7 to 9. Raises ValueError for a rate that is none, and as `check_savable` does; and
    FloatingPointError for weights that are not finite.
    """
    check_sample_rate(sample_rate)
    shape = _header(model)
    model = copy.deepcopy(model).cpu().to(dtype).float()  # what the file keeps is what it expects
    check_parameters(model)
    header = {
        **shape,
        "sample_rate": sample_rate,
        "card": dataclasses.replace(
            card,
            parameters=sum(p.numel() for p in model.parameters()),
            library=__version__,
            expected=_expected(model),
        ),
    }
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    write_tensors(path, FORMAT, json.dumps(header, default=as_object), tensors)


def bundled_bits(model: DiscreteAudioModel, sample_rate: int) -> float:
    """Bits per sample of what ships with the library, so that anybody can measure them again: the held-out
    piano, by two seconds at a time, for a model at 16 kHz; the ten spoken digits for one at 8 kHz.

    They differ from what the models of this library learnt from: the piano is a rendered one and louder, the
    digits are another voice's. So these figures are for comparing, `ModelCard.test_bits` for judging.

    Chapter: 7. Raises ValueError for another rate.
    """
    if sample_rate == 16_000:
        sounds = list(bundled.piano().test.split(2 * sample_rate))
    elif sample_rate == 8_000:
        sounds = [clip.waveform for clip in bundled.spoken_digits().values()]
    else:
        raise ValueError(f"sample_rate must be 8000 or 16000, as of the clips that ship, got {sample_rate}")
    return validation_loss(model, [model.quantizer.encode(sound) for sound in sounds], tbptt_length=4096)


def _header(model: DiscreteAudioModel | DiffusionModel) -> dict[str, Any]:
    """What `_new` builds the model from, as entries of a header. ValueError where it would build another."""
    header = _description(model)
    json.dumps(header, default=as_object)
    own, new = (_sizes(each) for each in (model, _new(header)))
    if other := [name for name in sorted(own.keys() | new.keys()) if own.get(name) != new.get(name)]:
        raise ValueError(
            "model must have the tensors of a new one of its config, got one that differs in "
            f"{', '.join(other)}: finish a `Pruner` first; save the dense model, not a `sparse` one"
        )
    return header


def _sizes(model: DiscreteAudioModel | DiffusionModel) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _description(model: DiscreteAudioModel | DiffusionModel) -> dict[str, Any]:
    if isinstance(model, DiffusionModel):
        return {"diffusion": model.config}
    if isinstance(model, Subscale | Vocoder):
        return {"model": model.config}
    if isinstance(model, Engine):
        raise ValueError(
            f"model must be the model itself, got the engine {type(model).__name__}: save its `model`"
        )
    core = model.backbone if isinstance(model, AudioLM) else model
    config = getattr(core, "config", None)
    if not isinstance(config, ModelConfig):
        raise ValueError(f"model must have a backbone that keeps its config, got {type(core).__name__}")
    if isinstance(model, AudioLM):
        with torch.random.fork_rng(devices=[]):  # a head is drawn at random, and only looked at
            own = model.backbone.head(model.quantizer)
        if str(model.head) != str(own):  # classes and sizes, of it and of its parts
            raise ValueError(f"model must have its backbone's own head, {own}; got {model.head}")
    return {"backbone": config, "quantizer": model.quantizer}


def _new(header: dict[str, Any]) -> DiscreteAudioModel | DiffusionModel:
    with torch.random.fork_rng(devices=[]):  # the first weights are random, and do not last
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
    model = _new(header)
    model.load_state_dict(tensors)
    _check(model, header["card"].expected)
    return Pretrained(model, header["sample_rate"], header["card"])


@torch.no_grad()
def _expected(model: DiscreteAudioModel | DiffusionModel) -> GoldenOutputs | GoldenAudio:
    if isinstance(model, DiffusionModel):
        sound = _sound(model)
        return GoldenAudio(as_tuples(sound[0].tolist()), as_tuples(_noise(model, sound).tolist()))
    codes = (
        model.synthesize(_silence(model.log_mel), seed=0)[:, :DRAWN]
        if isinstance(model, Vocoder)
        else model.generate(DRAWN)
    )
    waveform = model.quantizer.decode(codes)
    return GoldenOutputs(as_tuples(codes[0].tolist()), as_tuples(waveform[0].tolist()), _bits(model, codes))


@torch.no_grad()
def _check(model: DiscreteAudioModel | DiffusionModel, expected: GoldenOutputs | GoldenAudio) -> None:
    """Raise ValueError unless a model says what it should."""
    if isinstance(model, DiffusionModel) and isinstance(expected, GoldenAudio):
        wanted, noise = torch.tensor(expected.noise), _noise(model, torch.tensor([expected.waveform]))
        if noise.shape != wanted.shape or not bool(((noise - wanted).abs() < TOLERANCE).all()):
            raise ValueError(f"what it takes for noise must be {expected.noise}, got {noise.tolist()}")
    elif not isinstance(model, DiffusionModel) and isinstance(expected, GoldenOutputs):
        bits = _bits(model, torch.tensor([expected.codes]))
        if not abs(bits - expected.bits) < TOLERANCE:
            raise ValueError(f"what it drew must cost {expected.bits} bits per sample, and costs {bits}")
    else:
        raise ValueError(f"what it must say is of another kind of model: {type(expected).__name__}")


def _bits(model: DiscreteAudioModel, codes: Tensor) -> float:
    return -float(model.log_likelihood(codes).mean())


def _sound(model: DiffusionModel) -> Tensor:
    """What seed 0 makes; of a vocoder, out of silence."""
    if model.log_mel is None:
        return model.sample_audio(DRAWN)
    return model.synthesize(_silence(model.log_mel), DPM_SOLVER, steps=20)[:, :DRAWN]


def _silence(log_mel: LogMel) -> Tensor:
    """The spectrogram that a vocoder is recognised by."""
    return log_mel(torch.zeros(1, DRAWN))


def _noise(model: DiffusionModel, sound: Tensor) -> Tensor:
    """See `GoldenAudio`: no random number is in it."""
    n = model.config.backbone.n_classes
    x = F.pad(sound, (0, -sound.shape[1] % model.backbone.frame)).expand(max(n, 1), -1)
    middle = torch.full((len(x),), (model.config.schedule.steps - 1) / 2, dtype=torch.float64)
    features = None if model.log_mel is None else model.log_mel(x)
    _, noise = model.denoise(x, middle, torch.arange(n) if n else None, features=features)
    return noise[:, :HEARD]
