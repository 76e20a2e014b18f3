"""A flat S4 against a SaShiMi with pooling at equal training time; and likelihood against segment length.

    python -m benchmarks.quality.multiscale

Models train on the first 64 seconds of the bundled piano; bits per sample are those of the last 16 seconds,
as one sequence. Every run takes the same number of samples in the same number of steps, from three seeds; and
each model has one longer run. About ten minutes on one core. Writes ``book/results/multiscale.json``.
"""

import time
from argparse import ArgumentParser, RawTextHelpFormatter

import torch

from benchmarks.lib.result import save_result
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.data import bundled
from sashimi_lib.evaluation.likelihood import bigram_bits
from sashimi_lib.models import IsotropicConfig, IsotropicS4, SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.ssm.s4 import SSMConfig
from sashimi_lib.training.init import init_ordered_embeddings
from sashimi_lib.training.trainer import TrainingConfig, train

SEEDS = (0, 1, 2)
STEPS, LONGER, SAMPLES = 240, 2000, 4096  # steps of a run, and of the longer runs; samples per step
CONTEXTS = (256, 1024, 4096)
LENGTH = 1024  # samples of a segment where flat and pooled are compared
SSM = SSMConfig(d_state=32)
RATES = {"lr": 0.008, "ssm_lr": 0.004, "warmup": 10, "decay": "cosine"}
MODELS = {
    "pooled": lambda: SaShiMi(SaShiMiConfig(d_model=32, n_layers=1, ff=4, ssm=SSM)),
    "flat": lambda: IsotropicS4(IsotropicConfig(d_model=40, n_layers=2, glu=False, ssm=SSM)),
    "flat_large": lambda: IsotropicS4(
        IsotropicConfig(d_model=112, n_layers=2, glu=False, ssm=SSM)
    ),  # only timed
}
PAIR = ("flat", "pooled")


def new_model(name: str, seed: int) -> AudioLM:
    """One of the models, initialized from a seed."""
    torch.manual_seed(seed)
    model = AudioLM(MuLaw(), MODELS[name]())
    init_ordered_embeddings(model)
    return model


def train_on_segments(name: str, codes: torch.Tensor, length: int, seed: int, steps: int = STEPS) -> AudioLM:
    """Train a new model on segments of one length, with `SAMPLES` samples per step."""
    model = new_model(name, seed)
    segments = codes[: len(codes) // length * length].view(-1, length)
    config = TrainingConfig(steps=steps, batch_size=SAMPLES // length, seed=seed, **RATES)
    train(model, segments, config, progress=False)
    return model


@torch.no_grad()
def bits_per_sample(model: AudioLM, codes: torch.Tensor) -> float:
    """Bits per sample of one sequence."""
    return -float(model.log_likelihood(codes[None]).mean())


def seconds_per_step(codes: torch.Tensor, rounds: int = 3) -> dict[str, float]:
    """Least CPU time of a training step; the models take turns, so that other load slows all alike."""
    best = dict.fromkeys(MODELS, float("inf"))
    for _ in range(rounds):
        for name in MODELS:
            before = time.process_time()
            train_on_segments(name, codes, LENGTH, seed=0, steps=2)
            best[name] = min(best[name], (time.process_time() - before) / 2)
    return best


@torch.no_grad()
def microseconds_per_sample(samples: int = 640, rounds: int = 3) -> dict[str, float]:
    """Least CPU time of a generated sample at batch size 1, the models in turn."""
    best = dict.fromkeys(MODELS, float("inf"))
    for _ in range(rounds):
        for name in MODELS:
            model = new_model(name, 0)
            model.generate(16)
            before = time.process_time()
            model.generate(samples)
            best[name] = min(best[name], 1e6 * (time.process_time() - before) / samples)
    return best


def main() -> None:
    """Run both comparisons and write the result."""
    ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter).parse_args()
    torch.set_num_threads(1)
    piano = bundled.piano()
    train_codes, test_codes = MuLaw().encode(piano.train), MuLaw().encode(piano.test)
    step_time, sample_time = seconds_per_step(train_codes), microseconds_per_sample()
    bits: dict[str, list[float]] = {}
    runs = [("pooled", length) for length in CONTEXTS] + [("flat", LENGTH)]
    for seed in SEEDS:  # outermost, so that early output covers every kind of run
        for name, length in runs:
            model = train_on_segments(name, train_codes, length, seed)
            bits.setdefault(f"{name}_{length}", []).append(round(bits_per_sample(model, test_codes), 4))
            print(name, length, seed, bits[f"{name}_{length}"][-1], flush=True)
    longer = {
        name: round(bits_per_sample(train_on_segments(name, train_codes, LENGTH, 0, LONGER), test_codes), 4)
        for name in PAIR
    }
    save_result(
        "multiscale",
        question="A flat S4 and a SaShiMi of about equal training time; SaShiMi by length of its segments",
        config={
            "steps": STEPS,
            "longer_steps": LONGER,
            "samples_per_step": SAMPLES,
            "d_state": SSM.d_state,
            **RATES,
        },
        figures={
            "bits": {
                "flat": bits[f"flat_{LENGTH}"],
                "pooled": bits[f"pooled_{LENGTH}"],
                "context": {str(length): bits[f"pooled_{length}"] for length in CONTEXTS},
                "longer": longer,
                "bigram": round(bigram_bits(train_codes, test_codes), 4),
            },
            "seconds_per_step": {name: round(value, 3) for name, value in step_time.items()},
            "microseconds_per_sample": {name: round(value) for name, value in sample_time.items()},
            "parameters": {name: sum(p.numel() for p in new_model(name, 0).parameters()) for name in MODELS},
            "segment_length": LENGTH,
        },
        units={"bits": "bits per sample, one entry a seed", "seconds_per_step": "CPU seconds, one thread"},
        repeats=len(SEEDS),
        seed=SEEDS[0],
        data="bundled piano: 64 s for training, the last 16 s held out, 8-bit mu-law at 16 kHz",
    )


if __name__ == "__main__":
    main()
