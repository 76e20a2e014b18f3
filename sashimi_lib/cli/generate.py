"""``sashimi generate``: a batch of sounds of a given length, by the fastest engine."""

import sys
from contextlib import ExitStack
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sashimi_lib.audio import open_audio_writer, read, resample
from sashimi_lib.cli.arguments import GenerateCommand
from sashimi_lib.cli.device import device_of
from sashimi_lib.cli.stop import Stop
from sashimi_lib.cli.stream import write_stream
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.diffusion.samplers import DPM_SOLVER
from sashimi_lib.models.autoregressive import Autoregressive, DiscreteAudioModel
from sashimi_lib.models.sampling import SamplingConfig
from sashimi_lib.pretrained import load
from sashimi_lib.streaming import Stream, stream
from sashimi_lib.streaming.live import whole_samples

CHUNK = 0.1  # seconds: what is still generated after a signal
STEPS = 20  # of a diffusion model's sampler: more make no audible difference


def run(command: GenerateCommand) -> int:
    """Generate sounds and write them; returns the exit code. Raises ValueError for invalid options."""
    pretrained = load(command.model)
    rate = pretrained.sample_rate
    length = whole_samples("--seconds", command.seconds, rate)
    if command.count < 1:
        raise ValueError(f"--count must be at least 1, got {command.count}")
    model = pretrained.model.to(device_of(command.device))
    paths = numbered_paths(command.out, command.count)
    check_writable(paths, rate)
    sounds = (
        autoregressive_stream(model, rate, command)
        if isinstance(model, Autoregressive)
        else generate_batch(model, length, rate, command)
    )
    with Stop() as stop, ExitStack() as files:
        sinks = [files.enter_context(open_audio_writer(path, rate)) for path in paths]

        def write(chunk: Tensor) -> None:
            for sink, sound in zip(sinks, chunk.cpu(), strict=True):
                sink(sound)

        if isinstance(sounds, Stream):
            length, _ = write_stream(sounds, write, stop)
        else:
            write(sounds)
    print(f"{length / rate:.2f} s of sound in {', '.join(map(str, paths))}")
    return stop.exit_code


def check_writable(paths: list[Path], rate: int) -> None:
    """Raise as `open_audio_writer` does, before hours of work; it leaves no empty file."""
    for path in paths:
        with open_audio_writer(path, rate):
            pass


def autoregressive_stream(model: Autoregressive, rate: int, command: GenerateCommand) -> Stream:
    """A stream of sounds of an autoregressive model, before its first sample."""
    prompt = prompt_of(model, rate, command)
    sampling = SamplingConfig(**command.sampling)
    return stream(model, command.seconds, CHUNK, rate, prompt, sampling, command.seed, command.count)


def generate_batch(
    model: DiscreteAudioModel | DiffusionModel, length: int, rate: int, command: GenerateCommand
) -> Float[Tensor, "count length"]:
    """Sounds of a model that generates all samples in parallel."""
    if isinstance(model, DiffusionModel):
        return sample_diffusion(model, length, command)
    prompt = prompt_of(model, rate, command)
    settings = SamplingConfig(**command.sampling), command.seed, sys.stderr.isatty()
    return model.quantizer.decode(model.generate(length, command.count, prompt, *settings))


def prompt_of(
    model: DiscreteAudioModel, rate: int, command: GenerateCommand
) -> Int[Tensor, "count prompt *two"] | None:
    """The codes of --prompt for each sound. Raises ValueError for a label, which these models do not take."""
    if command.label is not None:
        raise ValueError(f"--label needs a diffusion model, {command.model} is not one")
    if command.prompt is None:
        return None
    waveform = resample(*read(command.prompt), rate)
    return model.quantizer.encode(waveform.expand(command.count, -1).to(model.device))


def sample_diffusion(
    model: DiffusionModel, length: int, command: GenerateCommand
) -> Float[Tensor, "count length"]:
    """Sounds of a diffusion model."""
    if command.prompt is not None or SamplingConfig(**command.sampling) != SamplingConfig():
        raise ValueError(
            "--prompt and sampling options need an autoregressive model, "
            f"{command.model} is a diffusion model"
        )
    label = None
    if command.label is not None:
        label = torch.full((command.count,), command.label, device=model.device)
    return model.generate(
        length,
        command.count,
        label,
        sampler=DPM_SOLVER,
        steps=STEPS,
        seed=command.seed,
        progress=sys.stderr.isatty(),
    )


def numbered_paths(path: Path, count: int) -> list[Path]:
    """The path itself for one sound, else one path for each.

    >>> [path.name for path in numbered_paths(Path("x.wav"), 2)]
    ['x_1.wav', 'x_2.wav']
    """
    if count == 1:
        return [path]
    return [path.with_stem(f"{path.stem}_{number}") for number in range(1, count + 1)]
