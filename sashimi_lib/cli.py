"""The command ``sashimi``: what the library does, from a terminal.

    sashimi stream piano --seconds 10 --out music.wav

Each subcommand is a dataclass: its fields are the arguments, its ``run`` does it. ``python -m sashimi_lib``
is the same command.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sashimi_lib.audio import read, resample, writing
from sashimi_lib.autoregressive import Autoregressive
from sashimi_lib.pretrained import Pretrained, load
from sashimi_lib.streaming import Stream, stream

Outlet = Callable[[Float[Tensor, " samples"]], None]


@dataclass(frozen=True)
class StreamCommand:
    """Make sound, and write it or play it as it comes, until there is enough or Ctrl-C ends it."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """The name of a model that ships, such as piano, or the file of one."""
    seconds: float | None = 10.0
    """How much to make; None goes on until Ctrl-C."""
    out: Path | None = None
    """Where to write it: a .wav or .flac file, whole after Ctrl-C too."""
    play: bool = False
    """Play it (pip install sashimi_lib[play])."""
    temperature: float = 1.0
    """Below 1 likely samples become likelier, above 1 the others."""
    top_p: float = 1.0
    """Draw from the fewest samples that are this likely together."""
    seed: int | None = None
    """Which random numbers; 0 unless said, or those that --state-in holds."""
    prompt: Path | None = None
    """A recording to go on from."""
    state_in: Path | None = None
    """Go on from where --state-out left off."""
    state_out: Path | None = None
    """Where to keep what it takes to go on from the end."""
    chunk: float = 0.1
    """Seconds to make at once."""

    def run(self) -> None:
        """Make the sound. Raises ValueError for what cannot be."""
        if self.out is None and not self.play:
            raise ValueError("--out or --play must be given: nobody would hear it")
        pretrained = load(self.model)
        if not isinstance(pretrained.model, Autoregressive):
            raise ValueError(f"model must be drawn sample by sample, {self.model} makes all samples together")
        sound = self._begin(pretrained)
        with ExitStack() as outlets:
            sinks: list[Outlet] = []
            if self.play:
                sinks.append(outlets.enter_context(playing(sound.sample_rate)))
            if self.out is not None:
                sinks.append(outlets.enter_context(writing(self.out, sound.sample_rate)))
            samples, seconds = pour(sound, sinks)
        if self.state_out is not None:
            sound.save(self.state_out)
        print(f"{samples / sound.sample_rate:.2f} s of sound, {speed(samples, seconds, sound.sample_rate)}")

    def _begin(self, pretrained: Pretrained) -> Stream:
        model, rate = pretrained.model, pretrained.sample_rate
        assert isinstance(model, Autoregressive)
        sound = stream(
            model, self.seconds, self.chunk, rate, None, self.temperature, self.top_p, self.seed or 0
        )
        if self.state_in is not None:
            earlier = Stream.load(sound.model, self.state_in, self.seed)
            if len(earlier.past[0]) != 1:
                raise ValueError(f"--state-in must be of one sound, got {len(earlier.past[0])} at once")
            sound.past, sound.generator = earlier.past, earlier.generator
        if self.prompt is not None:
            waveform = resample(*read(self.prompt), rate)
            sound.hear(model.quantizer.encode(waveform[None].to(model.device)))
        return sound


def pour(sound: Stream, sinks: Sequence[Outlet]) -> tuple[int, float]:
    """All of a stream into some outlets, under a bar that shows how fast it is made; until Ctrl-C, if it
    comes. Returns how many samples there were and how many seconds it took to make them."""
    samples, seconds, rate = 0, 0.0, sound.sample_rate
    total = None if sound.left is None else sound.left / rate
    layout = "{n:.1f} s" if total is None else "{l_bar}{bar}| {n:.1f} of {total:.1f} s"
    with tqdm(total=total, disable=None, bar_format=layout + " [{elapsed}{postfix}]") as bar:
        try:
            # What is done once, compiling above all, is done before the clock starts.
            first = sound.copy()
            first.chunk = 1
            next(first)
            while sound.left != 0:
                start = time.perf_counter()
                chunk = next(sound)[0]
                seconds += time.perf_counter() - start
                samples += len(chunk)
                for sink in sinks:
                    sink(chunk)
                bar.set_postfix_str(speed(samples, seconds, rate), refresh=False)
                bar.update(len(chunk) / rate)
        except KeyboardInterrupt:
            pass
    return samples, seconds


def speed(samples: int, seconds: float, sample_rate: int) -> str:
    """How fast samples were made, and how that compares with hearing them.

    >>> speed(16_000, 0.8, 16_000)
    '20,000 samples/s, 1.25 x real time'
    """
    rate = samples / seconds if seconds else 0.0
    return f"{rate:,.0f} samples/s, {rate / sample_rate:.2f} x real time"


@contextmanager
def playing(sample_rate: int) -> Iterator[Outlet]:
    """Sound from a loudspeaker as it comes, by the extra ``play``.

    Raises ImportError, saying what to install, where that is missing; and ValueError where there is nothing
    to play on.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the package is there, the library it calls is not
        raise ImportError(f"--play needs sounddevice ({error}): pip install sashimi_lib[play]") from error
    try:
        with sounddevice.OutputStream(sample_rate, channels=1, dtype="float32") as device:
            yield lambda waveform: device.write(waveform.cpu().numpy()[:, None])
    except sounddevice.PortAudioError as error:
        raise ValueError(f"--play found nothing to play on: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; what it returns is the exit code: 0, or 1 after an error of one line. Wrong usage
    exits with 2.

    >>> main(["stream", "wavernn", "--seconds", "1"])
    1
    """
    commands: dict[str, Callable[..., Any]] = {"stream": StreamCommand}
    about = "Raw-audio generation with state-space models."
    command = tyro.extras.subcommand_cli_from_dict(
        commands, prog="sashimi", description=about, args=arguments
    )
    try:
        command.run()
    except (ValueError, OSError, ImportError) as error:
        print("sashimi:", *str(error).split(), file=sys.stderr)
        return 1
    return 0
