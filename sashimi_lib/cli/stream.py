"""``sashimi stream``: sound as it is made."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sashimi_lib.audio import open_audio_writer, read, resample
from sashimi_lib.cli.arguments import StreamCommand
from sashimi_lib.cli.stop import Stop
from sashimi_lib.models.audio_lm import Autoregressive
from sashimi_lib.pretrained import load
from sashimi_lib.streaming import Stream, stream
from sashimi_lib.streaming.live import whole_samples

AudioSink = Callable[[Float[Tensor, " samples"]], None]


def run(command: StreamCommand) -> int:
    """Make the sound; returns the exit code. Raises ValueError for what cannot be."""
    if command.out is None and not command.play:
        raise ValueError("--out or --play must be given: nobody would hear it")
    pretrained = load(command.model)
    if not isinstance(pretrained.model, Autoregressive):
        raise ValueError(
            f"model must be drawn sample by sample, {command.model} makes all samples together: use generate"
        )
    sound = begin(command, pretrained.model, pretrained.sample_rate)
    with Stop() as stop, ExitStack() as outlets:
        sinks: list[AudioSink] = []
        if command.play:
            sinks.append(outlets.enter_context(playing(sound.sample_rate)))
        if command.out is not None:
            sinks.append(outlets.enter_context(open_audio_writer(command.out, sound.sample_rate)))

        def write(chunk: Tensor) -> None:
            for sink in sinks:
                sink(chunk[0])

        samples, seconds = write_stream(sound, write, stop)
        if command.state_out is not None:
            sound.save(command.state_out)
    print(f"{samples / sound.sample_rate:.2f} s of sound, {speed(samples, seconds, sound.sample_rate)}")
    return 0 if stop.came == signal.SIGINT else stop.exit_code  # Ctrl-C is how one without end is ended


def begin(command: StreamCommand, model: Autoregressive, rate: int) -> Stream:
    """The stream, before its first sample: what is not said is as the state has it that it goes on from."""
    if command.state_in is None:
        sound = stream(model, sample_rate=rate, seed=command.seed or 0)
    else:
        sound = Stream.load(model, command.state_in, command.seed)
        if len(sound.cache[0]) != 1:
            raise ValueError(f"--state-in must be of one sound, got {len(sound.cache[0])} at once")
    rate = sound.sample_rate
    sound = replace(
        sound,
        sampling=replace(sound.sampling, **command.sampling),
        chunk=sound.chunk if command.chunk is None else whole_samples("--chunk", command.chunk, rate),
        remaining=None if command.seconds is None else whole_samples("--seconds", command.seconds, rate),
    )
    if command.prompt is not None:
        waveform = resample(*read(command.prompt), rate)
        sound.prefill(model.quantizer.encode(waveform[None].to(model.device)))
    return sound


def write_stream(
    sound: Stream, write: Callable[[Float[Tensor, "batch samples"]], None], stop: Stop
) -> tuple[int, float]:
    """Write all of a stream, chunk by chunk, under a bar that shows how fast it is made; or, where a signal
    comes, up to the end of the chunk that is being made. Returns how many samples there were of each
    sequence, and how many seconds it took to make them."""
    samples, seconds, rate = 0, 0.0, sound.sample_rate
    total = None if sound.remaining is None else sound.remaining / rate
    layout = "{n:.1f} s" if total is None else "{l_bar}{bar}| {n:.1f} of {total:.1f} s"
    with tqdm(total=total, disable=None, bar_format=layout + " [{elapsed}{postfix}]") as bar:
        try:
            # What is done once, compiling above all, is done before the clock starts.
            first = sound.copy()
            first.chunk = 1
            next(first)
            while sound.remaining != 0 and not stop():
                start = time.perf_counter()
                chunk = next(sound)
                seconds += time.perf_counter() - start
                samples += chunk.shape[1]
                write(chunk)
                bar.set_postfix_str(speed(samples * len(chunk), seconds, rate), refresh=False)
                bar.update(chunk.shape[1] / rate)
        except KeyboardInterrupt:  # a second Ctrl-C does not wait for the chunk
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
def playing(sample_rate: int) -> Iterator[AudioSink]:
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
