"""Which training settings lower the validation loss most in equal time.

    python -m benchmarks.quality.recipe runs/data

A SaShiMi of two layers per tier, with the settings that win together (``new``), with each of them changed,
and with the settings before (``old``). Every run has the same time of one CPU core: first the seconds of a
step are measured for each of them, in turn, the least of several; then each trains for as many steps as fit.
So the figures do not depend on other load. Curves are validation bits against these seconds, without the time
of validation. The folder holds ``tunes``, ``piano_bach`` and ``digits``, each with ``train`` and ``valid``.
Runs are stored in ``runs/recipe``; after an interruption the same command resumes. Writes
``book/results/recipe.json``. About seven hours of one CPU core.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.lib.corpus import CodesBySplit, excerpts, load_codes, segments
from benchmarks.lib.result import ROOT, load_or_compute, save_result
from benchmarks.lib.training import step_seconds
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM, new_model
from sashimi_lib.models.blocks import FeedForward, S4Block
from sashimi_lib.ssm.s4 import Form
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.init import init_ordered_embeddings
from sashimi_lib.training.recipes import HOUR_SASHIMI
from sashimi_lib.training.trainer import train

RUNS = ROOT / "runs" / "recipe"
POINTS = 5  # validations of a run
SETTINGS = (
    "batch_size",
    "lr",
    "ssm_lr",
    "muon_lr",
    "decay",
    "precision",
)  # of `NEW`, as the result states them
LENGTH = HOUR_SASHIMI.length
NEW = replace(
    HOUR_SASHIMI.training, precision="bfloat16"
)  # steps, warm-up and validations follow from the time
assert isinstance(HOUR_SASHIMI.backbone, SaShiMiConfig)
BACKBONE = HOUR_SASHIMI.backbone
S4_CONFIG = BACKBONE.ssm


def _nothing(model: AudioLM) -> None:
    pass


@torch.no_grad()
def zero_branches(model: AudioLM) -> None:
    """Let every residual branch start at zero: the weights of its last linear layer."""
    for block in model.modules():
        if isinstance(block, S4Block | FeedForward):
            last = block.layer.output if isinstance(block, S4Block) else block.contract
            nn.init.zeros_(last.weight)


def dropout(model: AudioLM, p: float = 0.1) -> None:
    """Dropout on the output of every S4 layer."""

    def drop(layer: nn.Module, _: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        return nn.functional.dropout(output[0], p, training=torch.is_grad_enabled()), output[1]

    for block in model.modules():
        if isinstance(block, S4Block):
            block.layer.register_forward_hook(drop)


@dataclass(frozen=True)
class Variant:
    """A model and how it is trained: in one stage, or in two, of which the ``first`` has ``first_share`` of
    the time. A stage is a sequence length and its settings."""

    length: int = LENGTH
    training: TrainingConfig = NEW
    backbone: SaShiMiConfig = BACKBONE
    prepare: Callable[[AudioLM], None] = _nothing
    first: tuple[int, TrainingConfig] | None = None
    first_share: float = 0.6

    @property
    def stages(self) -> list[tuple[float, int, TrainingConfig]]:
        """Share of the time, sequence length and settings of each stage."""
        last = (self.length, self.training)
        if self.first is None:
            return [(1.0, *last)]
        return [(self.first_share, *self.first), (1 - self.first_share, *last)]

    def build(self, seed: int) -> AudioLM:
        """A new model."""
        torch.manual_seed(seed)
        model = new_model(self.backbone, MuLaw())
        assert isinstance(model, AudioLM)
        init_ordered_embeddings(model)
        self.prepare(model)
        return model


def changed(length: int = LENGTH, backbone: dict[str, Any] | None = None, **training: Any) -> Variant:
    """The new recipe with some settings changed."""
    return Variant(length, replace(NEW, **training), replace(BACKBONE, **(backbone or {})))


_OLD = replace(NEW, muon_lr=None, precision="float32")
VARIANTS: dict[str, Variant] = {
    "new": Variant(),
    "old": Variant(
        LENGTH,
        replace(_OLD, lr=0.004, ssm_lr=0.002),
        replace(BACKBONE, norm="scalar"),
        first=(1024, replace(_OLD, batch_size=16, decay="constant")),
    ),
    "AdamW for all": changed(muon_lr=None),
    "float32": changed(precision="float32"),
    "scalar norm": changed(backbone={"norm": "scalar"}),
    "Muon rate halved": changed(muon_lr=0.015),
    "Muon rate doubled": changed(muon_lr=0.06),
    "AdamW rates halved": changed(lr=0.004, ssm_lr=0.002),
    "AdamW rates doubled": changed(lr=0.016, ssm_lr=0.008),
    "state-space rate a quarter": changed(ssm_lr=0.001),
    "sequences of 1,024": changed(1024, batch_size=16),
    "carried state": changed(32_768, tbptt_length=2048, batch_size=8),
    "batches doubled": changed(batch_size=4),
    "warm-up, stable, decay": changed(decay="wsd"),
    "constant rate, moving average": changed(decay="constant", ema=0.99),
    "weight decay 0.1": changed(weight_decay=0.1),
    "dropout 0.1": replace(Variant(), prepare=dropout),
    "zero residual branches": replace(Variant(), prepare=zero_branches),
    "p, B and step sizes frozen": changed(
        backbone={"ssm": replace(BACKBONE.ssm, frozen=("p", "B", "log_dt"))}
    ),
    "diagonal (S4D-Lin)": changed(backbone={"ssm": replace(S4_CONFIG, form=Form.DIAGONAL, init="lin")}),
}


@dataclass(frozen=True)
class Job:
    """Runs of ``minutes`` on one corpus: of each variant, with each seed."""

    corpus: str
    minutes: float
    variants: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)


CORPORA = {"tunes": ("tunes", 8_000), "piano": ("piano_bach", 16_000), "digits": ("digits", 8_000)}
MAIN = ("new", "old")
SMALL_CORPUS = ("weight decay 0.1", "dropout 0.1")
JOBS = (
    Job("tunes", 10, MAIN),
    Job("tunes", 10, tuple(name for name in VARIANTS if name not in MAIN)),
    Job("piano", 10, (*MAIN, "AdamW for all", "Muon rate halved", "Muon rate doubled")),
    Job("digits", 10, (*MAIN, "AdamW for all", *SMALL_CORPUS)),
    Job("tunes", 10, MAIN, seeds=(1, 2)),
    Job("tunes", 30, ("new",)),
    Job("tunes", 60, ("old",)),
)


def stage_seconds(variant: Variant, data: list[Tensor], steps: int = 4) -> list[float]:
    """The least seconds of a step in each stage, after two steps of warm-up."""
    least = []
    for _, length, config in variant.stages:
        few = segments(data[:8], length)[: 8 * config.batch_size]
        least.append(min(step_seconds(variant.build(0), few, replace(config, steps=steps + 2))[1:]))
    return least


def seconds_per_step(data: list[Tensor], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step in each stage of each variant, which take turns; the least of ``rounds``."""
    turns = [
        {name: stage_seconds(variant, data) for name, variant in VARIANTS.items()} for _ in range(rounds)
    ]
    return {name: [min(s) for s in zip(*(turn[name] for turn in turns), strict=True)] for name in VARIANTS}


def run(
    variant: Variant,
    data: list[Tensor],
    valid: list[Tensor],
    seconds: float,
    per_step: list[float],
    seed: int,
    checkpoint: Path,
) -> dict[str, Any]:
    """Train for a time, resuming from a checkpoint of each stage. Returns steps, samples, and the curve of
    (seconds, validation bits)."""
    model, curve, spent, steps, samples = variant.build(seed), [], 0.0, 0, 0
    for number, (share, length, config) in enumerate(variant.stages):
        step, path = per_step[number], checkpoint.with_suffix(f".{number}.pt")
        count = max(POINTS, int(share * seconds / step))
        every, warmup = -(-count // POINTS), min(50, count // 10)
        settings = replace(config, steps=count, valid_every=every, warmup=warmup, seed=seed)
        history = train(model, segments(data, length), settings, path, valid=valid, progress=False)
        curve += [(round(spent + n * step, 1), round(bits, 4)) for n, bits in history.valid]
        spent, steps = spent + count * step, steps + count
        samples += count * config.samples_per_step(length)
    return {"seed": seed, "steps": steps, "samples": samples, "curve": curve}


def run_job(
    job: Job, corpus: CodesBySplit, valid: list[Tensor], per_step: dict[str, list[float]], minutes: float
) -> dict[str, list[dict[str, Any]]]:
    """All runs of a job, by variant."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in job.variants}
    for seed in job.seeds:
        for name in job.variants:
            path = RUNS / f"{job.corpus}-{minutes:g}-{name}-{seed}.json"
            variant, seconds = VARIANTS[name], 60 * minutes
            compute = partial(run, variant, corpus["train"], valid, seconds, per_step[name], seed, path)
            runs[name].append(load_or_compute(path, compute))
            print(job.corpus, minutes, name, seed, runs[name][-1]["curve"][-1], flush=True)
    return runs


def main() -> None:
    """Compute what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all times")
    parser.add_argument("--rounds", type=int, default=5, help="repeats of the timing of a step")
    parser.add_argument("--valid-seconds", type=float, default=60, help="length of the validation data")
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpora = {
        name: load_codes(options.folder / folder, rate, MuLaw(), splits=("train", "valid"))
        for name, (folder, rate) in CORPORA.items()
    }
    RUNS.mkdir(parents=True, exist_ok=True)
    per_step = load_or_compute(
        RUNS / "seconds.json", lambda: seconds_per_step(corpora["tunes"]["train"], options.rounds)
    )
    table = []
    for job in JOBS:
        corpus, rate = corpora[job.corpus], CORPORA[job.corpus][1]
        valid = excerpts(corpus["valid"], 4 * rate, int(options.valid_seconds * rate)).clips
        minutes = options.scale * job.minutes
        runs = run_job(job, corpus, valid, per_step, minutes)
        table.append({"corpus": job.corpus, "minutes": minutes, "runs": runs})
    save_result(
        "recipe",
        question="Which training settings lower the validation loss most in equal time?",
        config={"length": LENGTH} | {name: getattr(NEW, name) for name in SETTINGS},
        figures={"seconds_per_step": per_step, "jobs": table},
        units={"curve": "seconds of one CPU core, validation bits per sample"},
        repeats=options.rounds,
        seed=0,
        data="8-bit mu-law of tunes on a vibraphone (8 kHz), Bach (16 kHz), digits of five speakers (8 kHz)",
    )


if __name__ == "__main__":
    main()
