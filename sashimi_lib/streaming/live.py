"""The live stream: sound as it is made, for as long as anybody listens.

Nothing is kept of the past but the model's state, so a stream takes the same memory after an hour as after a
second; and that state can be copied, to go on in many ways, or saved, to go on another day. A saved one knows
its model by a checksum of the weights.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sashimi_lib.audio import check_sample_rate
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.sampling import SamplingConfig
from sashimi_lib.models.states import flatten_state, unflatten_state
from sashimi_lib.models.trainable import Cache
from sashimi_lib.ssm.precision import cudnn_as_matmul
from sashimi_lib.storage.tensor_file import digest, read_tensors, write_tensors
from sashimi_lib.streaming.base import Engine
from sashimi_lib.streaming.engine import best_engine

KIND = "stream 3"  # of a file, and the version of that
SETTINGS = ("sample_rate", "chunk", "remaining")


@dataclass(eq=False)
class Stream(Iterator[Float[Tensor, "batch samples"]]):
    """Waveforms, a chunk at a time: each is what comes next. `stream` begins one.

    ``cache`` is all that it remembers. ``chunk`` is how many samples it gives at once and ``remaining`` how many
    are still to come, None without end; these two and ``sampling`` may be changed at any time.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> one = stream(WaveRNN(WaveRNNConfig(d_hidden=32)), seconds=0.02, chunk=0.01)
    >>> first = next(one)
    >>> other = one.copy(seed=1)
    >>> [chunk.shape for chunk in one], [chunk.shape for chunk in other]
    ([torch.Size([1, 160])], [torch.Size([1, 160])])

    Chapter: 7. Raises ValueError for settings out of range, at the next chunk where they were changed.
    """

    model: Autoregressive
    cache: Cache
    generator: torch.Generator
    sample_rate: int
    chunk: int
    remaining: int | None = None
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self) -> None:
        self._check()

    def __next__(self) -> Float[Tensor, "batch samples"]:
        """The next chunk, whole; where it is interrupted, it is as if it had not been begun."""
        self._check()
        if self.remaining == 0:
            raise StopIteration
        length = self.chunk if self.remaining is None else min(self.chunk, self.remaining)
        before = self.generator.get_state()
        try:
            codes, self.cache = self.model.generate_from(self.cache, length, self.sampling, self.generator)
        except BaseException:
            self.generator.set_state(before)
            raise
        self.remaining = None if self.remaining is None else self.remaining - length
        return self.model.quantizer.decode(codes)

    @torch.no_grad()
    @cudnn_as_matmul()
    def prefill(self, codes: Int[Tensor, "batch length *two"]) -> None:
        """Go on as though it had just made these codes. They are taken in by the parallel pass, all at once.

        Raises ValueError for codes that are none of its model's, and for another number of sequences.
        """
        self.model.quantizer.check(codes)
        if len(codes) != len(self.cache[0]):
            raise ValueError(f"codes must be of {len(self.cache[0])} sequences, got {len(codes)}")
        self.cache = self.model.prefill(codes.to(self.model.device), self.cache)

    def copy(self, seed: int | None = None) -> "Stream":
        """A stream that goes on from here by itself: the same sound, or, with a seed, another one."""
        if seed is not None:
            return dataclasses.replace(self, generator=self.model.generator(seed))
        generator = torch.Generator(self.generator.device)
        generator.set_state(self.generator.get_state())
        return dataclasses.replace(self, generator=generator)

    def save(self, path: str | Path) -> None:
        """Write what it takes to go on, its random numbers included, but not the model; an interruption
        leaves the old file as it was.

        >>> import tempfile
        >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
        >>> model, path = WaveRNN(WaveRNNConfig(d_hidden=32)), Path(tempfile.mkdtemp()) / "here.safetensors"
        >>> today = stream(model, seconds=0.02, chunk=0.01)
        >>> _ = next(today)
        >>> today.save(path)
        >>> torch.equal(next(Stream.load(model, path)), next(today))
        True
        """
        code, state = self.cache
        header = {
            "model": _checksum(self.model),
            "quantizer": repr(self.model.quantizer),
            "device": self.generator.device.type,
            "sampling": dataclasses.asdict(self.sampling),
            **{name: getattr(self, name) for name in SETTINGS},
        }
        tensors = {"code": code, "random": self.generator.get_state()} | _numbered(state)
        # Each in memory of its own: the format has no tensors that share theirs.
        tensors = {name: x.detach().cpu().clone().contiguous() for name, x in tensors.items()}
        write_tensors(path, KIND, json.dumps(header), tensors)

    @classmethod
    def load(cls, model: Autoregressive, path: str | Path, seed: int | None = None) -> "Stream":
        """The stream that `save` wrote, as it was; with a seed, its random numbers are new ones.

        Raises ValueError, naming the file and what is wrong, for one that is damaged or of another kind,
        whose settings are out of range, and for the state of another model than this: of other tensors, over
        other codes, with other weights.
        """
        engine = best_engine(model)
        try:
            header, tensors = read_tensors(path, KIND)
            cache = _past_of(model, header, tensors)
            generator = _generator_of(model, header, tensors) if seed is None else model.generator(seed)
            sampling = SamplingConfig(**header["sampling"])
            settings = {name: header[name] for name in SETTINGS}
            return cls(engine, cache, generator, sampling=sampling, **settings)
        except Exception as error:  # a foreign file may fail anywhere, and a reader asks which it was
            raise ValueError(f"path must be a stream of such a model, got {path}: {error}") from error

    def _check(self) -> None:
        """Raise ValueError for settings out of range."""
        check_sample_rate(self.sample_rate)
        remaining = 0 if self.remaining is None else self.remaining
        for name, value, least in (("chunk", self.chunk, 1), ("remaining", remaining, 0)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of samples, at least {least}, got {value!r}")


def stream(
    model: Autoregressive,
    seconds: float | int | None = None,
    chunk: float | int = 0.1,
    sample_rate: int = 16_000,
    prompt: Int[Tensor, "batch prompt *two"] | None = None,
    sampling: SamplingConfig = SamplingConfig(),
    seed: int | torch.Generator = 0,
    batch_size: int = 1,
) -> Stream:
    """A model's sound as it is made, by its `best_engine` engine: so many seconds of it, in chunks of so many;
    or, where ``seconds`` is None, without end.

    ``prompt`` is what it goes on from, in codes; it is not given back. All chunks together are what
    `Autoregressive.generate` of the same engine draws with the same seed.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> model = WaveRNN(WaveRNNConfig(d_hidden=32))
    >>> chunks = list(stream(model, seconds=0.25))
    >>> [chunk.shape[1] for chunk in chunks]
    [1600, 1600, 800]
    >>> torch.equal(torch.cat(chunks, dim=1), model.quantizer.decode(model.generate(4_000, seed=0)))
    True

    Chapter: 7. Raises ValueError for settings out of range, and for a prompt that is no codes of this model.
    """
    check_sample_rate(sample_rate)
    remaining = None if seconds is None else whole_samples("seconds", seconds, sample_rate)
    engine = best_engine(model)
    cache = engine.initial_cache(batch_size if prompt is None else len(prompt))
    settings = sample_rate, whole_samples("chunk", chunk, sample_rate), remaining, sampling
    begun = Stream(engine, cache, engine.generator(seed), *settings)
    if prompt is not None and prompt.shape[1] > 0:
        begun.prefill(prompt)
    return begun


def whole_samples(name: str, seconds: float | int, sample_rate: int) -> int:
    """How many samples last so many seconds. ``name`` is what an error calls the argument.

    >>> whole_samples("seconds", 0.25, 16_000)
    4000

    Chapter: 7. Raises ValueError unless they are finite and last one sample or more.
    """
    samples = seconds * sample_rate
    if not 0.5 < samples < math.inf:
        raise ValueError(
            f"{name} must be finite and last at least one sample (1/{sample_rate} s), got {seconds}"
        )
    return round(samples)


def _checksum(model: Autoregressive) -> str:
    """What a state knows its model by: its weights, and the settings that no tensor tells, as dilations."""
    model = model.model if isinstance(model, Engine) else model
    settings = [repr(module.config) for module in model.modules() if hasattr(module, "config")]
    return digest("\n".join(settings), model.state_dict())


def _numbered(state: Any) -> dict[str, Tensor]:
    return {f"state.{number}": x for number, x in enumerate(flatten_state(state))}


def _past_of(model: Autoregressive, header: dict[str, Any], tensors: dict[str, Tensor]) -> Cache:
    """The past in a file, where the model wants it. Raises ValueError for one that is not the model's."""
    if header["quantizer"] != repr(model.quantizer):
        raise ValueError(f"its codes are those of {header['quantizer']}, the model's of {model.quantizer}")
    model.quantizer.check(tensors["code"][:, None])
    code, state = model.initial_cache(len(tensors["code"]))
    wanted = {"code": code} | _numbered(state)
    found = {name: x for name, x in tensors.items() if name != "random"}
    if _shapes(found) != _shapes(wanted):
        raise ValueError("it was saved for a model with other layer sizes")
    if header["model"] != _checksum(model):
        raise ValueError("it was saved for a model with other weights or settings")
    code, *parts = (found[name].to(x.device) for name, x in wanted.items())
    return code, unflatten_state(parts, like=state)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (x.shape, x.dtype) for name, x in tensors.items()}


def _generator_of(
    model: Autoregressive, header: dict[str, Any], tensors: dict[str, Tensor]
) -> torch.Generator:
    if header["device"] != model.device.type:
        raise ValueError(
            f"its random numbers are of {header['device']}, the model is on {model.device.type}: "
            "give a seed for new ones"
        )
    generator = torch.Generator(model.device)
    generator.set_state(tensors["random"])
    return generator
