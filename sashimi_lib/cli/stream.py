"""``sashimi stream``: sound without a fixed end, written or played as it is generated."""

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
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.pretrained import load
from sashimi_lib.streaming import Stream, stream
from sashimi_lib.streaming.live import whole_samples

AudioSink = Callable[[Float[Tensor, " samples"]], None]


def run(command: StreamCommand) -> int:
    """Generate the sound; returns the exit code. Raises ValueError for invalid options."""
    if command.out is None and not command.play:
        raise ValueError("--out or --play is required")
    pretrained = load(command.model)
    if not isinstance(pretrained.model, Autoregressive):
        raise ValueError(
            f"{command.model} does not generate sample by sample: use sashimi generate instead of stream"
        )
    sound = open_stream(command, pretrained.model, pretrained.sample_rate)
    with Stop() as stop, ExitStack() as outlets:
        sinks: list[AudioSink] = []
        if command.play:
            sinks.append(outlets.enter_context(audio_player(sound.sample_rate)))
        if command.out is not None:
            sinks.append(outlets.enter_context(open_audio_writer(command.out, sound.sample_rate)))

        def write(chunk: Tensor) -> None:
            for sink in sinks:
                sink(chunk[0])

        samples, seconds = write_stream(sound, write, stop)
        if command.state_out is not None:
            sound.save(command.state_out)
    print(f"{samples / sound.sample_rate:.2f} s of sound, {speed(samples, seconds, sound.sample_rate)}")
    return 0 if stop.came == signal.SIGINT else stop.exit_code  # Ctrl-C is the usual end of a stream


def open_stream(command: StreamCommand, model: Autoregressive, rate: int) -> Stream:
    """The stream before its first sample; options that are not given are as in the state that it resumes."""
    if command.state_in is None:
        sound = stream(model, sample_rate=rate, seed=command.seed or 0)
    else:
        sound = Stream.load(model, command.state_in, command.seed)
        if len(sound.cache[0]) != 1:
            raise ValueError(f"--state-in must hold the state of one sound, got {len(sound.cache[0])}")
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
    """Write a stream chunk by chunk under a progress bar, up to its end or to the end of the chunk in which a
    signal comes. Returns the samples of each sequence, and the seconds that it took to generate them."""
    samples, seconds, rate = 0, 0.0, sound.sample_rate
    total = None if sound.remaining is None else sound.remaining / rate
    layout = "{n:.1f} s" if total is None else "{l_bar}{bar}| {n:.1f} of {total:.1f} s"
    with tqdm(total=total, disable=None, bar_format=layout + " [{elapsed}{postfix}]") as bar:
        try:
            # Compilation, and whatever else is done once, before the clock starts.
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
    """Samples a second, and how many times faster than real time that is.

    >>> speed(16_000, 0.8, 16_000)
    '20,000 samples/s, 1.25 x real time'
    """
    rate = samples / seconds if seconds else 0.0
    return f"{rate:,.0f} samples/s, {rate / sample_rate:.2f} x real time"


@contextmanager
def audio_player(sample_rate: int) -> Iterator[AudioSink]:
    """Play chunks as they come, by the extra ``play``. Raises ImportError, saying what to install, where that
    is missing; and ValueError where there is no audio device."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the package is there, the library it calls is not
        raise ImportError(f'--play needs sounddevice ({error}): pip install "sashimi_lib[play]"') from error
    try:
        with sounddevice.OutputStream(sample_rate, channels=1, dtype="float32") as device:
            yield lambda waveform: device.write(waveform.cpu().numpy()[:, None])
    except sounddevice.PortAudioError as error:
        raise ValueError(f"--play: no audio output device: {error}") from error
