"""What a model generates at stages of its training, from the same seed.

    python -m benchmarks.listening.learning

The weights that ``python -m tools.train_pretrained tunes`` keeps after about 1, 10 and 100 million samples,
and those that ship: held-out bits, and eight clips from seed 0 with their measures. The first
clip of each is written, with ``book/results/learning.json``. About three minutes on one CPU thread.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks.lib.result import save_result
from benchmarks.listening.clips import write_clip
from benchmarks.quality.generated_audio import UNITS, tune_measures
from sashimi_lib import pretrained
from sashimi_lib.data import bundled
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.pretrained import bundled_bits
from sashimi_lib.streaming import best_engine
from sashimi_lib.training.checkpoint import load_checkpoint
from tools.train_pretrained import KEPT_STEPS, RUNS, TASKS, kept_path, untrained_model

NAME = "tunes"
CLIPS = 8


def mean_measures(waveforms: Sequence[Tensor], sample_rate: int) -> dict[str, float]:
    """Means over waveforms of the measures of a melody."""
    measures = [tune_measures(waveform, sample_rate) for waveform in waveforms]
    return {name: round(fmean(each[name] for each in measures), 3) for name in measures[0]}


def describe(model: Autoregressive, name: str, rate: int, seconds: float, samples: int) -> dict[str, Any]:
    """Held-out bits of a model and the measures of its clips, the first of which is written."""
    clips = model.quantizer.decode(best_engine(model).generate(int(seconds * rate), CLIPS, seed=0))
    return {
        "samples": samples,
        "bits": round(bundled_bits(model, rate, NAME), 4),
        "clip": write_clip(f"learning_{name}", clips[0], rate),
        **mean_measures(list(clips), rate),
    }


def main() -> None:
    """Generate and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the kept weights")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the clips")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task, stages = TASKS[NAME], []
    length, config = task.stage(0)
    for steps in KEPT_STEPS:
        model = untrained_model(task)
        model.load_state_dict(load_checkpoint(kept_path(NAME, steps, options.runs))["model"])
        samples = steps * config.samples_per_step(length)
        stages.append(describe(model, str(steps), task.sample_rate, options.seconds, samples))
    shipped = pretrained.load(NAME)
    stages.append(describe(shipped.model, "shipped", task.sample_rate, options.seconds, shipped.card.samples))
    save_result(
        "learning",
        question="What a model of tunes generates after 1, 10 and 100 million samples, and at its end",
        config={"seconds": options.seconds, "sample_rate": task.sample_rate, "temperature": 1.0},
        figures={
            "stages": stages,
            "real": mean_measures([clip.waveform for clip in bundled.tunes()], task.sample_rate),
        },
        units={
            "samples": "samples of training",
            "bits": "bits per sample of the bundled tunes, held out",
            **UNITS,
        },
        repeats=1,
        seed=0,
        data="tunes on a vibraphone at 8 kHz, 8-bit mu-law",
    )


if __name__ == "__main__":
    main()
