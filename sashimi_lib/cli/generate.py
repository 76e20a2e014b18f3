"""``sashimi generate``: whole sounds, side by side, by the fastest engine."""

import sys
from contextlib import ExitStack
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.audio import read, resample, writing
from sashimi_lib.autoregressive import Autoregressive
from sashimi_lib.cli.arguments import GenerateCommand
from sashimi_lib.cli.device import device_of
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.diffusion.samplers import DPM_SOLVER
from sashimi_lib.pretrained import load
from sashimi_lib.streaming import fastest

STEPS = 20  # of a diffusion model's schedule: with this sampler, more are not heard


def run(command: GenerateCommand) -> None:
    """Make the sounds, and write them. Raises ValueError for what cannot be."""
    pretrained = load(command.model)
    rate = pretrained.sample_rate
    length = round(command.seconds * rate)
    if command.count < 1 or length < 1:
        raise ValueError(
            f"--count must be at least 1 and --seconds above 0, got {command.count}, {command.seconds}"
        )
    model = pretrained.model.to(device_of(command.device))
    paths = numbered(command.out, command.count)
    with ExitStack() as files:  # opened first: hours of work must not end at a folder that is not there
        sinks = [files.enter_context(writing(path, rate)) for path in paths]
        if isinstance(model, DiffusionModel):
            sounds = all_at_once(model, length, command)
        else:
            sounds = one_by_one(model, length, rate, command)
        for sink, sound in zip(sinks, sounds.cpu(), strict=True):
            sink(sound)
    print(f"{length / rate:.2f} s of sound in {', '.join(map(str, paths))}")


def one_by_one(
    model: Autoregressive, length: int, rate: int, command: GenerateCommand
) -> Float[Tensor, "count length"]:
    """Sounds drawn sample by sample."""
    if command.label is not None:
        raise ValueError(f"--label is for diffusion models, {command.model} is none")
    prompt = None
    if command.prompt is not None:
        heard = resample(*read(command.prompt), rate)
        prompt = model.quantizer.encode(heard.expand(command.count, -1).to(model.device))
    codes = fastest(model).generate(
        length,
        command.count,
        prompt,
        command.temperature,
        command.top_p,
        command.seed,
        progress=sys.stderr.isatty(),
    )
    return model.quantizer.decode(codes)


def all_at_once(
    model: DiffusionModel, length: int, command: GenerateCommand
) -> Float[Tensor, "count length"]:
    """Sounds of a diffusion model."""
    if command.prompt is not None or command.temperature != 1 or command.top_p != 1:
        raise ValueError(
            "--prompt, --temperature and --top-p are for models that are drawn sample by sample, "
            f"{command.model} makes all samples together"
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


def numbered(path: Path, count: int) -> list[Path]:
    """The path itself for one sound, else one path for each.

    >>> [path.name for path in numbered(Path("x.wav"), 2)]
    ['x_1.wav', 'x_2.wav']
    """
    if count == 1:
        return [path]
    return [path.with_stem(f"{path.stem}_{number}") for number in range(1, count + 1)]
