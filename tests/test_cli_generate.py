"""``sashimi generate``: what it writes of any kind of model, and what is left by a signal or a full disk."""

import signal
import subprocess
import sys
import time

import pytest
import torch

from sashimi_lib import audio
from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.cli import main
from sashimi_lib.cli.stop import SIGNALS
from sashimi_lib.models import (
    SampleRNN,
    SampleRNNConfig,
    SamplingConfig,
    Subscale,
    SubscaleConfig,
    WaveRNN,
    WaveRNNConfig,
)
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.vocoder import Vocoder
from sashimi_lib.pretrained import ModelCard, save
from sashimi_lib.streaming import Stream

RATE = 2_000
MODELS = {
    "wavernn": lambda: WaveRNN(WaveRNNConfig(d_hidden=16)),
    "samplernn": lambda: AudioLM(MuLaw(), SampleRNN(SampleRNNConfig((4, 2), d_hidden=8, d_embedding=4))),
    "subscale": lambda: Subscale(SubscaleConfig(8, factor=4, lookahead=1, d_conditioning=3, layers=2)),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(model):
    save("one.safetensors", model, RATE, ModelCard("one"))
    return model


def run(*arguments):
    return main(["generate", "one.safetensors", *map(str, arguments)])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", MODELS)
def test_sounds_are_those_that_the_model_draws(name, folder, capsys):
    model = saved(MODELS[name]())
    audio.write("prompt.wav", torch.linspace(-0.5, 0.5, 40), RATE)
    settings = ["--temperature", 0.9, "--top-p", 0.8, "--top-k", 90, "--seed", 3, "--prompt", "prompt.wav"]
    assert run("--seconds", 0.25, "--count", 2, "--out", "a.flac", *settings) == 0
    prompt = model.quantizer.encode(audio.read("prompt.wav")[0].expand(2, -1))
    wanted = model.quantizer.decode(model.generate(500, 2, prompt, SamplingConfig(0.9, 0.8, 90), 3))
    for number in (1, 2):
        assert (audio.read(f"a_{number}.flac")[0] - wanted[number - 1]).abs().max() <= 2**-16
    assert names(folder) == ["a_1.flac", "a_2.flac", "one.safetensors", "prompt.wav"]
    assert capsys.readouterr().out == "0.25 s of sound in a_1.flac, a_2.flac\n"


@pytest.mark.parametrize("seconds", ["inf", "nan", "-1", "0", "0.0001"])
def test_a_length_that_is_none_is_refused_by_name(seconds, folder, capsys):
    saved(MODELS["wavernn"]())
    assert run("--seconds", seconds, "--out", "a.wav") == 1
    assert (
        f"--seconds must be finite and last at least one sample (1/{RATE} s), got" in capsys.readouterr().err
    )
    assert names(folder) == ["one.safetensors"]


def test_a_vocoder_says_what_it_needs_and_leaves_no_file(folder, capsys):
    saved(Vocoder(WaveRNNConfig(8, d_conditioning=3), LogMelConfig(RATE, n_mels=8, hop=20, window=256)))
    assert run("--out", "a.wav") == 1
    assert "a vocoder needs a spectrogram to generate" in capsys.readouterr().err
    assert names(folder) == ["one.safetensors"]


def test_a_place_that_is_not_there_is_named_before_anything_is_made(folder, monkeypatch, capsys):
    model = saved(MODELS["subscale"]())
    monkeypatch.setattr(type(model), "generate", None)
    assert run("--out", "no/such/a.wav", "--count", 2) == 1
    assert (
        capsys.readouterr().err == "sashimi: no/such/a_1.wav cannot be written: No such file or directory\n"
    )


@pytest.mark.parametrize("number", SIGNALS, ids=str)
def test_after_a_signal_each_sound_is_a_whole_file_of_what_was_made(number, folder, monkeypatch, capsys):
    model, make, made = saved(MODELS["wavernn"]()), Stream.__next__, []

    def signalled(self):
        made.append(make(self))
        if len(made) == 4:  # the first is not written
            signal.raise_signal(number)
        return made[-1]

    monkeypatch.setattr(Stream, "__next__", signalled)
    assert run("--seconds", 60, "--count", 2, "--out", "a.flac") == 128 + number
    wanted = model.quantizer.decode(model.generate(600, 2))
    for name, sound in zip(("a_1.flac", "a_2.flac"), wanted, strict=True):
        assert torch.equal(audio.read(name)[0], sound)
    assert names(folder) == ["a_1.flac", "a_2.flac", "one.safetensors"]
    assert capsys.readouterr().out.startswith("0.30 s of sound in a_1.flac, a_2.flac")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "suffix", "code"),
    [("generate", "wav", 143), ("generate", "flac", 143), ("stream", "flac", 143)],
)
def test_as_a_program_it_ends_well_by_sigterm(command, suffix, code, folder):
    saved(MODELS["wavernn"]())
    words = [sys.executable, "-m", "sashimi_lib", command, "one.safetensors", "--seconds", "1e6"]
    with subprocess.Popen([*words, "--out", f"a.{suffix}"]) as program:
        while program.poll() is None and not any(
            path.stat().st_size > 10_000 for path in folder.glob(f"*a.{suffix}*")
        ):
            time.sleep(0.05)
        program.terminate()
        try:
            program.wait(timeout=60)
        finally:
            program.kill()
    assert program.returncode == code
    assert len(audio.read(f"a.{suffix}")[0]) > 1_000
    assert names(folder) == [f"a.{suffix}", "one.safetensors"]


# A small disk of its own for one process and its children: 64 KiB and no more.
FULL = "mkdir disk && mount -t tmpfs -o size=64k tmpfs disk && exec {python} -m sashimi_lib {command}"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["generate", "stream"])
@pytest.mark.parametrize("out", ["disk/a.wav", "disk/a.flac"])
def test_on_a_full_disk_it_says_so_and_names_the_file(command, out, folder, unshared):
    saved(MODELS["wavernn"]())
    words = f"{command} one.safetensors --seconds 1000 --out '{out}'"
    script = FULL.format(python=sys.executable, command=words)
    done = subprocess.run([*unshared, "bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"sashimi: {out} cannot be written: No space left on device\n"
