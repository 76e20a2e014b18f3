"""Clips that the shipped 8-bit models generate from fixed seeds.

    python -m benchmarks.listening.clips runs/data/piano_bach

Four clips of each model; the piano at three temperatures and three values of top-p; two real prompts of the
held-out bundled piano, continued; one long clip at each of three temperatures, with its level and spectral
flatness in every half second, beside those of real recordings; and how much noise the model adds after real
prompts with added noise. The recordings are those of the folder's ``test``, on which the model was evaluated;
no audio of them is written. Nothing is selected. Writes the clips and ``book/results/listening.json``. About
eight minutes on one CPU thread.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from benchmarks.lib.corpus import load_codes
from benchmarks.lib.result import results_folder, save_result
from sashimi_lib import pretrained
from sashimi_lib.audio import rms_db, write
from sashimi_lib.data import bundled
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.sampling import SamplingConfig, sample_token
from sashimi_lib.ssm.kernel_cache import cached_kernels

TEMPERATURES, NUCLEI = (0.8, 0.9, 1.0), (0.9, 0.97, 1.0)
LONG_TEMPERATURES = (0.9, 1.0, 1.1)
OPENINGS = (1.0, 9.0)  # seconds into the held-out piano at which the two prompts of a second begin
N_CLIPS = 4
NOISE_DB = tuple(range(-70, -14, 5))  # dBFS of the noise that is added to real prompts


@torch.no_grad()
def generate_each(model: AudioLM, length: int, settings: list[SamplingConfig]) -> Tensor:
    """Codes (settings, length) from seed 0: a sequence for each of the options, in one batch."""
    generator, state = torch.Generator().manual_seed(0), model.initial_state(len(settings))
    code, codes = torch.full((len(settings),), model.quantizer.silence), []
    with parametrize.cached(), cached_kernels(model):
        for _ in range(length):
            logits, state = model.step(code, state)
            rows = zip(logits.split(1), settings, strict=True)
            code = torch.cat([sample_token(row, sampling, generator) for row, sampling in rows])
            codes.append(code)
    return torch.stack(codes, dim=1)


def by_half_second(waveform: Tensor, sample_rate: int) -> dict[str, list[float]]:
    """Level in dBFS and spectral flatness in dB (0: white noise) of every half second."""
    halves = waveform[: len(waveform) // (sample_rate // 2) * (sample_rate // 2)].view(-1, sample_rate // 2)
    return {
        "level_db": [round(max(rms_db(half), -120.0), 2) for half in halves],
        "flatness_db": [round(flatness_db(half), 2) for half in halves],
    }


def flatness_db(waveform: Tensor) -> float:
    """Geometric over arithmetic mean of the power spectrum without its first bin, in dB; 0 for silence."""
    window = torch.hann_window(len(waveform), dtype=torch.float64)
    power = torch.fft.rfft(waveform.double() * window).abs().square()[1:] + 1e-12
    return 10 * math.log10(float(power.log().mean().exp() / power.mean()))


def write_clip(name: str, waveform: Tensor, sample_rate: int, suffix: str = "flac") -> str:
    """Write a clip beside the results; returns the file's name."""
    file = f"listening_{name}.{suffix}"
    write(results_folder() / file, waveform, sample_rate)
    return file


def write_clips(name: str, seconds: float) -> list[str]:
    """Clips of a shipped model, as anybody gets them from its ``generate``; returns file names."""
    shipped = pretrained.load(name)
    codes = shipped.model.generate(int(seconds * shipped.sample_rate), N_CLIPS, seed=0)
    clips = shipped.model.quantizer.decode(codes)
    return [write_clip(f"{name}_{i}", clip, shipped.sample_rate) for i, clip in enumerate(clips)]


def grid(model: AudioLM, sample_rate: int, seconds: float) -> list[list[str]]:
    """File names of a clip for each temperature (rows) and top-p (columns)."""
    settings = [SamplingConfig(temperature, top_p) for temperature in TEMPERATURES for top_p in NUCLEI]
    clips = model.quantizer.decode(generate_each(model, int(seconds * sample_rate), settings))
    names = [
        write_clip(f"grid_{sampling.temperature:g}_{sampling.top_p:g}", clip, sample_rate)
        for sampling, clip in zip(settings, clips, strict=True)
    ]
    return [names[i : i + len(NUCLEI)] for i in range(0, len(names), len(NUCLEI))]


def long_clips(model: AudioLM, sample_rate: int, seconds: float) -> list[dict[str, object]]:
    """A long clip at each temperature with top-p 1, with its level and flatness over time."""
    settings = [SamplingConfig(temperature) for temperature in LONG_TEMPERATURES]
    clips = model.quantizer.decode(generate_each(model, int(seconds * sample_rate), settings))
    return [
        {"temperature": temperature, "clip": write_clip(f"long_{temperature:g}", clip, sample_rate, "mp3")}
        | by_half_second(clip, sample_rate)
        for temperature, clip in zip(LONG_TEMPERATURES, clips, strict=True)
    ]


@torch.no_grad()
def predicted_noise(model: AudioLM, excerpts: list[Tensor], sample_rate: int) -> dict[str, list[float]]:
    """The noise level that sampling adds after prompts with added noise, in dBFS, by temperature.

    It is the standard deviation of the predictive distribution, in amplitude.
    """
    amplitude, generator = (
        model.quantizer.decode(torch.arange(model.quantizer.levels)).double(),
        torch.Generator(),
    )
    out: dict[str, list[float]] = {f"{temperature:g}": [] for temperature in LONG_TEMPERATURES}
    for level in NOISE_DB:
        generator.manual_seed(0)
        prompts = [
            excerpt + 10 ** (level / 20) * torch.randn(sample_rate, generator=generator)
            for excerpt in excerpts
        ]
        logits, _ = model(model.quantizer.encode(torch.stack(prompts).clamp(-1, 1)))
        for temperature in LONG_TEMPERATURES:
            p = (logits.double() / temperature).softmax(-1)
            variance = p @ amplitude.square() - (p @ amplitude).square()
            out[f"{temperature:g}"].append(round(10 * math.log10(float(variance.mean())), 2))
    return out


def continuations(model: AudioLM, sample_rate: int, seconds: float) -> list[dict[str, object]]:
    """Real prompts of a second, each continued by the model for ``seconds``."""
    held_out = bundled.piano().test
    starts = [int(opening * sample_rate) for opening in OPENINGS]
    prompt = torch.stack([model.quantizer.encode(held_out[start : start + sample_rate]) for start in starts])
    codes = model.generate(int(seconds * sample_rate), prompt=prompt, seed=0)
    clips = model.quantizer.decode(torch.cat([prompt, codes], dim=1))
    return [
        {"opening": opening, "prompt_seconds": 1.0, "clip": write_clip(f"continued_{i}", clip, sample_rate)}
        for i, (opening, clip) in enumerate(zip(OPENINGS, clips, strict=True))
    ]


def main() -> None:
    """Generate and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of the short clips")
    parser.add_argument("--long-seconds", type=float, default=16.0, help="length of the long clips")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results_folder().mkdir(parents=True, exist_ok=True)
    shipped, piano = pretrained.load("piano"), bundled.piano()
    model, sample_rate = shipped.model, shipped.sample_rate
    corpus = load_codes(options.folder, sample_rate, model.quantizer, splits=("test",))
    real = [model.quantizer.decode(codes) for codes in corpus["test"]]
    excerpts = [clip[10 * sample_rate : 11 * sample_rate] for clip in real]
    save_result(
        "listening",
        question="What the shipped models generate: by temperature and top-p, after a prompt, for long",
        config={"seconds": options.seconds, "long_seconds": options.long_seconds, "sample_rate": sample_rate},
        figures={
            "draws": {name: write_clips(name, options.seconds) for name in ("piano", "digits")},
            "grid": {
                "temperatures": TEMPERATURES,
                "top_p": NUCLEI,
                "clips": grid(model, sample_rate, options.seconds),
            },
            "continuations": continuations(model, sample_rate, options.seconds),
            "long": long_clips(model, sample_rate, options.long_seconds),
            "real": {
                "recordings": by_half_second(
                    torch.cat([clip[: 30 * sample_rate] for clip in real]), sample_rate
                ),
                "bundled": by_half_second(piano.waveform, piano.sample_rate),
            },
            "noise": {
                "temperatures": LONG_TEMPERATURES,
                "in_db": NOISE_DB,
                "out_db": predicted_noise(model, excerpts, sample_rate),
            },
        },
        units={
            "level_db": "dBFS (RMS) of each half second",
            "flatness_db": "dB, geometric over arithmetic mean of the power spectrum of each half second",
            "opening": "seconds into the held-out piano",
            "noise": "dBFS: white noise in the prompt, and standard deviation of the next sample",
        },
        repeats=1,
        seed=0,
        data="the models that ship (sashimi_lib.pretrained); prompts from the held-out bundled piano; "
        f"{options.folder.name}: the first 30 s of each test recording",
    )


if __name__ == "__main__":
    main()
