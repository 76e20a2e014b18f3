"""Flat against pooled at equal training time, and context length against likelihood (chapter 6).

    python benchmarks/multiscale.py

Both questions are asked of the bundled piano: learn from its first 64 seconds, pay in bits per sample for the
last 16, heard in one piece. Every run sees the same number of samples in the same number of steps; three
seeds each, and one longer run of either model. About ten minutes on one core.
"""

import time

import torch
from result import save_result

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.data import bundled
from sashimi_lib.evaluation.likelihood import bigram_bits
from sashimi_lib.models import IsotropicConfig, IsotropicS4, SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.ssm.s4 import SSMConfig
from sashimi_lib.training.init import init_ordered_embeddings
from sashimi_lib.training.trainer import TrainingConfig, train

SEEDS = (0, 1, 2)
STEPS, LONGER, SAMPLES = 240, 2000, 4096  # steps a run, steps of the longer runs, samples a step
CONTEXTS = (256, 1024, 4096)
LENGTH = 1024  # the segments on which flat and pooled are compared
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


def new(name: str, seed: int) -> AudioLM:
    """One of the models, fresh from its seed."""
    torch.manual_seed(seed)
    model = AudioLM(MuLaw(), MODELS[name]())
    init_ordered_embeddings(model)
    return model


def learn(name: str, codes: torch.Tensor, length: int, seed: int, steps: int = STEPS) -> AudioLM:
    """Train on segments of one length, as many a step as make `SAMPLES`."""
    model = new(name, seed)
    segments = codes[: len(codes) // length * length].view(-1, length)
    config = TrainingConfig(steps=steps, batch_size=SAMPLES // length, seed=seed, **RATES)
    train(model, segments, config, progress=False)
    return model


@torch.no_grad()
def held_out(model: AudioLM, codes: torch.Tensor) -> float:
    """Bits per sample of the held-out part, in one piece."""
    return -float(model.log_likelihood(codes[None]).mean())


def seconds_per_step(codes: torch.Tensor, rounds: int = 3) -> dict[str, float]:
    """Least CPU time of a training step, the models in turn, so that a busy machine treats both alike."""
    best = dict.fromkeys(MODELS, float("inf"))
    for _ in range(rounds):
        for name in MODELS:
            before = time.process_time()
            learn(name, codes, LENGTH, seed=0, steps=2)
            best[name] = min(best[name], (time.process_time() - before) / 2)
    return best


@torch.no_grad()
def microseconds_per_sample(samples: int = 640, rounds: int = 3) -> dict[str, float]:
    """Least CPU time of one generated sample at batch 1, in turn."""
    best = dict.fromkeys(MODELS, float("inf"))
    for _ in range(rounds):
        for name in MODELS:
            model = new(name, 0)
            model.generate(16)
            before = time.process_time()
            model.generate(samples)
            best[name] = min(best[name], 1e6 * (time.process_time() - before) / samples)
    return best


def main() -> None:
    """Run both comparisons and write the result."""
    torch.set_num_threads(1)
    piano = bundled.piano()
    train_codes, test_codes = MuLaw().encode(piano.train), MuLaw().encode(piano.test)
    step_time, sample_time = seconds_per_step(train_codes), microseconds_per_sample()
    bits: dict[str, list[float]] = {}
    runs = [("pooled", length) for length in CONTEXTS] + [("flat", LENGTH)]
    for seed in SEEDS:  # seeds outside, so that an interrupted look sees every kind of run
        for name, length in runs:
            model = learn(name, train_codes, length, seed)
            bits.setdefault(f"{name}_{length}", []).append(round(held_out(model, test_codes), 4))
            print(name, length, seed, bits[f"{name}_{length}"][-1], flush=True)
    longer = {
        name: round(held_out(learn(name, train_codes, LENGTH, 0, LONGER), test_codes), 4) for name in PAIR
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
            "parameters": {name: sum(p.numel() for p in new(name, 0).parameters()) for name in MODELS},
            "segment_length": LENGTH,
        },
        units={"bits": "bits per sample, one entry a seed", "seconds_per_step": "CPU seconds, one thread"},
        repeats=len(SEEDS),
        seed=SEEDS[0],
        data="bundled piano: 64 s to learn from, the last 16 s held out, 8-bit mu-law at 16 kHz",
    )


if __name__ == "__main__":
    main()
