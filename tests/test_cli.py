"""The command: what it writes, plays and keeps, what it says, and how it ends."""

import math
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from sashimi_lib import audio
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.cli import main
from sashimi_lib.cli.stop import SIGNALS
from sashimi_lib.cli.stream import speed
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.models import (
    DiffWaveConfig,
    SampleRNN,
    SampleRNNConfig,
    SamplingConfig,
    WaveRNN,
    WaveRNNConfig,
)
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.pretrained import ModelCard, save
from sashimi_lib.streaming import Stream, stream

RATE = 2_000


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A small model, which lies as one.safetensors in the folder where commands are run."""
    monkeypatch.chdir(tmp_path)
    model = WaveRNN(WaveRNNConfig(d_hidden=16))
    save("one.safetensors", model, RATE, ModelCard("one"))
    return model


def run(*arguments):
    return main(["stream", "one.safetensors", *map(str, arguments)])


def written(path):
    waveform, rate = audio.read(path)
    assert rate == RATE
    return waveform


def waveform(model, samples, **settings):
    return model.quantizer.decode(model.generate(samples, **settings))[0]


# What it makes


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_it_writes_what_the_model_draws(model, suffix, tmp_path, capsys):
    assert (
        run("--seconds", 0.33, "--out", f"a.{suffix}", "--temperature", 0.8, "--top-p", 0.9, "--seed", 3) == 0
    )
    wanted = waveform(model, 660, sampling=SamplingConfig(0.8, 0.9), seed=3)
    assert torch.equal(written(f"a.{suffix}"), wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{suffix}", "one.safetensors"]
    said = capsys.readouterr()
    assert said.out.startswith("0.33 s of sound, ")
    assert "samples/s" in said.out
    assert said.out.endswith("x real time\n")
    assert said.err == ""


def test_a_model_that_no_engine_knows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = AudioLM(MuLaw(), SampleRNN(SampleRNNConfig((4, 2), d_hidden=8, d_embedding=4)))
    save("one.safetensors", model, RATE, ModelCard("one"))
    assert run("--seconds", 0.1, "--out", "a.wav") == 0
    assert len(written("a.wav")) == 200


def test_it_goes_on_from_a_recording_at_its_own_rate(model):
    tone = 0.3 * torch.sin(2 * math.pi * 100 * torch.arange(800) / (2 * RATE))
    audio.write("prompt.wav", tone, 2 * RATE)
    assert run("--seconds", 0.1, "--out", "a.wav", "--prompt", "prompt.wav") == 0
    heard = audio.resample(audio.read("prompt.wav")[0], 2 * RATE, RATE)
    assert torch.equal(written("a.wav"), waveform(model, 200, prompt=model.quantizer.encode(heard)[None]))


def test_it_goes_on_from_where_it_stopped(model):
    assert run("--seconds", 0.2, "--out", "a.wav", "--state-out", "here") == 0
    assert run("--seconds", 0.1, "--out", "b.wav", "--state-in", "here", "--state-out", "here") == 0
    assert run("--seconds", 0.2, "--out", "c.wav", "--state-in", "here") == 0
    parts = [written(f"{name}.wav") for name in "abc"]
    assert torch.equal(torch.cat(parts), waveform(model, 1_000))
    assert run("--seconds", 0.2, "--out", "d.wav", "--state-in", "here", "--seed", 5) == 0
    assert not torch.equal(written("d.wav"), parts[2])


def test_what_is_not_said_is_as_the_state_has_it(model):
    sampling = SamplingConfig(0.7, 0.8, 40)
    said = ["--temperature", 0.7, "--top-p", 0.8, "--top-k", 40, "--chunk", 0.03, "--seed", 4]
    assert run("--seconds", 0.2, "--out", "a.wav", "--state-out", "here", *said) == 0
    assert run("--seconds", 0.2, "--out", "b.wav", "--state-in", "here", "--state-out", "there") == 0
    wanted = waveform(model, 800, sampling=sampling, seed=4)
    assert torch.equal(torch.cat([written("a.wav"), written("b.wav")]), wanted)
    assert Stream.load(model, "there").chunk == 60
    said = ["--temperature", 1, "--top-k", None, "--chunk", 0.05, "--state-out", "there"]
    assert run("--seconds", 0.2, "--out", "c.wav", "--state-in", "here", *said) == 0
    there = Stream.load(model, "there")
    assert (there.sampling, there.chunk) == (SamplingConfig(1.0, 0.8), 100)
    assert not torch.equal(written("c.wav"), written("b.wav"))


def test_a_state_has_its_own_rate(model):
    stream(model, 0.1, sample_rate=2 * RATE).save("here")
    assert run("--seconds", 0.1, "--out", "a.wav", "--state-in", "here") == 0
    sound, rate = audio.read("a.wav")
    assert (len(sound), rate) == (400, 4_000)


def test_a_state_of_another_model_is_refused(model, capsys):
    assert run("--seconds", 0.1, "--out", "a.wav", "--state-out", "here") == 0
    save("one.safetensors", WaveRNN(model.config), RATE, ModelCard("another of that shape"))
    capsys.readouterr()
    assert run("--seconds", 0.1, "--out", "b.wav", "--state-in", "here") == 1
    assert "got here: saved for a model with other weights" in capsys.readouterr().err


# While it runs


@pytest.mark.parametrize("number", SIGNALS, ids=str)
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_signal_lets_the_chunk_be_finished_and_keeps_it(model, number, suffix, monkeypatch, tmp_path):
    make, made = Stream.__next__, []

    def signalled(self):
        made.append(make(self))
        assert len(made) < 100, "the signal was not heeded"
        if len(made) == 4:  # the first is not for hearing
            signal.raise_signal(number)
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "__next__", signalled)
        code = run("--seconds", "None", "--out", f"a.{suffix}", "--state-out", "here", "--chunk", 0.05)
    assert code == (0 if number == signal.SIGINT else 128 + number)
    assert run("--seconds", 0.1, "--out", "b.wav", "--state-in", "here") == 0
    assert torch.equal(torch.cat([written(f"a.{suffix}"), written("b.wav")]), waveform(model, 500))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"a.{suffix}",
        "b.wav",
        "here",
        "one.safetensors",
    ]


def interrupt_after(monkeypatch, chunks):
    make, made = Stream.__next__, []

    def interrupted(self):
        if len(made) == chunks + 1:  # the first is not for hearing
            raise KeyboardInterrupt
        made.append(make(self))
        return made[-1]

    monkeypatch.setattr(Stream, "__next__", interrupted)


def test_after_an_interruption_the_file_is_whole_and_the_state_is_its_end(model, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, chunks=3)
        assert run("--seconds", "None", "--out", "a.wav", "--state-out", "here", "--chunk", 0.05) == 0
    assert run("--seconds", 0.1, "--out", "b.wav", "--state-in", "here") == 0
    assert torch.equal(torch.cat([written("a.wav"), written("b.wav")]), waveform(model, 500))


def test_interrupted_before_the_first_sample_it_leaves_an_old_file_alone(model, monkeypatch, tmp_path):
    assert run("--seconds", 0.1, "--out", "a.wav") == 0
    interrupt_after(monkeypatch, chunks=0)
    assert run("--seconds", 0.1, "--out", "a.wav", "--seed", 1) == 0
    assert torch.equal(written("a.wav"), waveform(model, 200))
    assert not list(tmp_path.glob("*.partial"))


def test_after_an_error_what_was_made_is_kept_under_another_name(model, monkeypatch, capsys, tmp_path):
    generate_from = Stream.__next__

    def blow_up(self):
        if self.remaining == 100:
            raise ValueError("logits must be finite: the state has blown up")
        return generate_from(self)

    monkeypatch.setattr(Stream, "__next__", blow_up)
    assert run("--seconds", 0.3, "--out", "a.wav", "--chunk", 0.05) == 1
    assert capsys.readouterr().err == "sashimi: logits must be finite: the state has blown up\n"
    assert not (tmp_path / "a.wav").exists()
    (tmp_path / "a.wav.partial").rename("kept.wav")
    assert torch.equal(written("kept.wav"), waveform(model, 500))


@pytest.fixture
def loudspeaker(monkeypatch):
    """A stand-in for the package sounddevice, which plays into a list."""
    played = []

    class OutputStream:
        def __init__(self, samplerate, channels, dtype):
            played.append((samplerate, channels, dtype))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            played.append("stopped")

        def write(self, frames):
            played.append(torch.from_numpy(frames))

    double = SimpleNamespace(OutputStream=OutputStream, PortAudioError=ArithmeticError)
    monkeypatch.setitem(sys.modules, "sounddevice", double)
    return SimpleNamespace(played=played, module=double)


def test_it_plays(model, loudspeaker, tmp_path):
    assert run("--seconds", 0.25, "--play") == 0
    opened, *frames, stopped = loudspeaker.played
    assert opened == (RATE, 1, "float32")
    assert [frame.shape for frame in frames] == [(200, 1), (200, 1), (100, 1)]
    assert torch.equal(torch.cat(frames)[:, 0], waveform(model, 500))
    assert stopped == "stopped"
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


def test_every_file_of_weights_is_a_bundled_model_by_its_name(model, loudspeaker, monkeypatch, tmp_path):
    monkeypatch.setattr("sashimi_lib.pretrained.files.WEIGHTS", tmp_path)
    (tmp_path / "one.safetensors").rename(tmp_path / "tunes.safetensors")
    assert main(["stream", "tunes", "--seconds", "0.1", "--play"]) == 0
    assert torch.equal(torch.cat(loudspeaker.played[1:-1])[:, 0], waveform(model, 200))
    assert main(["generate", "tunes", "--seconds", "0.1", "--out", "a.wav"]) == 0
    assert torch.equal(written("a.wav"), waveform(model, 200))


def test_without_a_device_to_play_on_it_says_so(model, loudspeaker, capsys):
    def none(*settings, **more):
        raise loudspeaker.module.PortAudioError("Error querying device -1")

    loudspeaker.module.OutputStream = none
    assert run("--play") == 1
    assert "--play: no audio output device: Error querying device -1" in capsys.readouterr().err


def test_without_the_player_it_says_what_to_install(model, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert run("--play", "--out", "a.wav") == 1
    assert 'pip install "sashimi_lib[play]"' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


def test_speed():
    assert speed(48_000, 2.0, 16_000) == "24,000 samples/s, 1.50 x real time"
    assert speed(0, 0.0, 16_000) == "0 samples/s, 0.00 x real time"


# How it ends


def failing(*arguments):
    return pytest.param(arguments[:-1], arguments[-1], id=arguments[-1])


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        failing("--out or --play is required"),
        failing("--out", "a.mp3", "path must end in .wav or .flac, got a.mp3"),
        failing("--out", "no/such/a.wav", "no/such/a.wav cannot be written"),
        failing("--out", "a.wav", "--seconds", "0", "--seconds must be finite and last at least one sample"),
        failing("--out", "a.wav", "--seconds", "inf", "--seconds must be finite and last"),
        failing("--out", "a.wav", "--seconds", "nan", "--seconds must be finite and last at"),
        failing(
            "--out", "a.wav", "--seconds", "-1", "--seconds must be finite and last at least one sample (1"
        ),
        failing("--out", "a.wav", "--chunk", "0", "--chunk must be finite and last at least one sample"),
        failing("--out", "a.wav", "--top-p", "nan", "top_p must lie in"),
        failing("--out", "a.wav", "--temperature", "0", "temperature must be positive"),
        failing("--out", "a.wav", "--top-k", "0", "top_k must be an integer"),
        failing("--out", "a.wav", "--prompt", "none.wav", "no such audio file: none.wav"),
        failing(
            "--out", "a.wav", "--state-in", "none", "path must be a saved stream of this model, got none"
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(model, arguments, because, capsys, tmp_path):
    assert run(*arguments) == 1
    said = capsys.readouterr()
    assert because in said.err
    assert said.err.startswith("sashimi: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


def test_models_that_cannot_be_streamed(model, capsys):
    assert main(["stream", "nobody", "--out", "a.wav"]) == 1
    assert "got 'nobody'" in capsys.readouterr().err
    small = DiffWaveConfig(d_residual=4, d_skip=4, n_layers=2, d_step=(4, 6, 8))
    save("two.safetensors", DiffusionModel(DiffusionConfig(small)), RATE, ModelCard("two"))
    assert main(["stream", "two.safetensors", "--out", "a.wav"]) == 1
    assert "does not generate sample by sample: use sashimi generate" in capsys.readouterr().err


def test_a_state_of_many_sounds_is_refused(model, capsys):
    stream(model, sample_rate=RATE, batch_size=2).save("here")
    assert run("--out", "a.wav", "--state-in", "here") == 1
    assert "--state-in must hold the state of one sound, got 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["synthesize"], ["stream"], ["stream", "x", "--seconds", "long"], ["stream", "x", "--volume"]],
)
def test_wrong_usage_ends_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_help_names_every_subcommand_and_argument(capsys):
    for arguments, words in (
        (["--help"], ["stream"]),
        (["stream", "--help"], ["MODEL", "--state-out", "Ctrl-C"]),
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
        said = capsys.readouterr().out
        assert all(word in said for word in words)


@pytest.mark.slow
def test_as_a_program_it_ends_well_by_ctrl_c(model, tmp_path):
    command = [sys.executable, "-m", "sashimi_lib", "stream", "one.safetensors", "--out", "a.wav"]
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # in the background it is ignored
    with subprocess.Popen(
        [*command, "--seconds", "None"], stdout=subprocess.PIPE, text=True, preexec_fn=listening
    ) as program:
        while program.poll() is None and not any(
            unfinished.stat().st_size > 10_000 for unfinished in tmp_path.glob("a.wav.*.partial")
        ):
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        try:
            said, _ = program.communicate(timeout=60)
        finally:
            program.kill()
    assert program.returncode == 0
    sound = written("a.wav")
    assert said.startswith(f"{len(sound) / RATE:.2f} s of sound")
    assert torch.equal(sound[:500], waveform(model, 500))
