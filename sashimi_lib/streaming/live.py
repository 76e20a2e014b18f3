"""Streaming generation: audio in chunks, of any length.

A stream keeps only the model's cache, so it takes constant memory. It can be copied, to generate several
continuations, or saved, to be resumed later. A file identifies the model by a checksum of its weights.
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

KIND = "stream 3"  # of a file, with its version
SETTINGS = ("sample_rate", "chunk", "remaining")


@dataclass(eq=False)
class Stream(Iterator[Float[Tensor, "batch samples"]]):
    """An iterator over chunks of generated waveforms, each the continuation of the last. See `stream`.

    ``cache`` is its whole state. ``chunk`` is the size of a chunk in samples and ``remaining`` the number
    of samples that are left, or None for an endless stream. Both and ``sampling`` may be changed at any time.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> live = stream(WaveRNN(WaveRNNConfig(d_hidden=32)), seconds=0.02, chunk=0.01)
    >>> first = next(live)
    >>> other = live.copy(seed=1)
    >>> [chunk.shape for chunk in live], [chunk.shape for chunk in other]
    ([torch.Size([1, 160])], [torch.Size([1, 160])])

    Chapter: 7. Raises ValueError for settings out of range; for changed settings, at the next chunk.
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
        """Generate the next chunk. If that is interrupted, the stream is left as it was before the call."""
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
        """Append codes to the context by the parallel pass, as if the stream had just generated them.

        Raises ValueError for codes that the model's quantizer does not have, and for another batch size.
        """
        self.model.quantizer.check(codes)
        if len(codes) != len(self.cache[0]):
            raise ValueError(f"codes must be of {len(self.cache[0])} sequences, got {len(codes)}")
        self.cache = self.model.prefill(codes.to(self.model.device), self.cache)

    def copy(self, seed: int | None = None) -> "Stream":
        """Return an independent stream with the same continuation or, with a seed, another one."""
        if seed is not None:
            return dataclasses.replace(self, generator=self.model.generator(seed))
        generator = torch.Generator(self.generator.device)
        generator.set_state(self.generator.get_state())
        return dataclasses.replace(self, generator=generator)

    def save(self, path: str | Path) -> None:
        """Save the stream, with the state of its random generator but without the model, to resume it.

        The file is replaced atomically.

        >>> import tempfile
        >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
        >>> model, path = WaveRNN(WaveRNNConfig(d_hidden=32)), Path(tempfile.mkdtemp()) / "live.safetensors"
        >>> live = stream(model, seconds=0.02, chunk=0.01)
        >>> _ = next(live)
        >>> live.save(path)
        >>> torch.equal(next(Stream.load(model, path)), next(live))
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
        tensors = {"code": code, "random": self.generator.get_state()} | _state_tensors(state)
        # Cloned, since the format does not allow tensors that share memory.
        tensors = {name: x.detach().cpu().clone().contiguous() for name, x in tensors.items()}
        write_tensors(path, KIND, json.dumps(header), tensors)

    @classmethod
    def load(cls, model: Autoregressive, path: str | Path, seed: int | None = None) -> "Stream":
        """Load a stream that `save` wrote; with a seed, its random generator is replaced.

        Raises ValueError, with the file and the reason, for a damaged file, one of another kind, settings
        out of range, and the stream of a model with another quantizer, architecture or weights.
        """
        engine = best_engine(model)
        try:
            header, tensors = read_tensors(path, KIND)
            cache = _load_cache(model, header, tensors)
            generator = _load_generator(model, header, tensors) if seed is None else model.generator(seed)
            sampling = SamplingConfig(**header["sampling"])
            settings = {name: header[name] for name in SETTINGS}
            return cls(engine, cache, generator, sampling=sampling, **settings)
        except Exception as error:  # a foreign file may fail anywhere, and the message has to name it
            raise ValueError(f"path must be a saved stream of this model, got {path}: {error}") from error

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
    """Return a stream of audio from a model, by its `best_engine`.

    ``seconds`` is the total duration, None for an endless stream, and ``chunk`` the duration of a chunk in
    seconds. ``prompt`` are codes to continue, which are not part of the output. The concatenated chunks equal
    what `Autoregressive.generate` of the same engine generates with the same seed.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> model = WaveRNN(WaveRNNConfig(d_hidden=32))
    >>> chunks = list(stream(model, seconds=0.25))
    >>> [chunk.shape[1] for chunk in chunks]
    [1600, 1600, 800]
    >>> torch.equal(torch.cat(chunks, dim=1), model.quantizer.decode(model.generate(4_000, seed=0)))
    True

    Chapter: 7. Raises ValueError for settings out of range, and for a prompt with codes that the model's
    quantizer does not have.
    """
    check_sample_rate(sample_rate)
    remaining = None if seconds is None else whole_samples("seconds", seconds, sample_rate)
    engine = best_engine(model)
    cache = engine.initial_cache(batch_size if prompt is None else len(prompt))
    settings = sample_rate, whole_samples("chunk", chunk, sample_rate), remaining, sampling
    live = Stream(engine, cache, engine.generator(seed), *settings)
    if prompt is not None and prompt.shape[1] > 0:
        live.prefill(prompt)
    return live


def whole_samples(name: str, seconds: float | int, sample_rate: int) -> int:
    """Convert seconds to a number of samples. ``name`` is the argument's name in an error message.

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
    """Return a checksum of a model's weights and configs, since some settings change no shape (dilations)."""
    model = model.model if isinstance(model, Engine) else model
    settings = [repr(module.config) for module in model.modules() if hasattr(module, "config")]
    return digest("\n".join(settings), model.state_dict())


def _state_tensors(state: Any) -> dict[str, Tensor]:
    return {f"state.{index}": x for index, x in enumerate(flatten_state(state))}


def _load_cache(model: Autoregressive, header: dict[str, Any], tensors: dict[str, Tensor]) -> Cache:
    """Return the cache from a file, on the model's device. Raises ValueError for that of another model."""
    if header["quantizer"] != repr(model.quantizer):
        raise ValueError(f"saved with quantizer {header['quantizer']}, but the model has {model.quantizer}")
    model.quantizer.check(tensors["code"][:, None])
    code, state = model.initial_cache(len(tensors["code"]))
    expected = {"code": code} | _state_tensors(state)
    found = {name: x for name, x in tensors.items() if name != "random"}
    if _shapes(found) != _shapes(expected):
        raise ValueError("saved for a model with other layer sizes")
    if header["model"] != _checksum(model):
        raise ValueError("saved for a model with other weights or settings")
    code, *parts = (found[name].to(x.device) for name, x in expected.items())
    return code, unflatten_state(parts, like=state)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (x.shape, x.dtype) for name, x in tensors.items()}


def _load_generator(
    model: Autoregressive, header: dict[str, Any], tensors: dict[str, Tensor]
) -> torch.Generator:
    if header["device"] != model.device.type:
        raise ValueError(
            f"saved with a random generator on {header['device']}, but the model is on {model.device.type}: "
            "pass a seed"
        )
    generator = torch.Generator(model.device)
    generator.set_state(tensors["random"])
    return generator
