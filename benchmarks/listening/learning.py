"""What a model generates at stages of its training, from the same seed.

    python -m benchmarks.listening.learning

The weights that ``python -m tools.train_pretrained tunes`` keeps after about 1, 10 and 100 million samples,
and those that ship. One clip of each from seed 0, the first and only one, with its held-out bits. Writes the
clips and ``book/results/learning.json``. About two minutes on one CPU thread.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.result import save_result
from benchmarks.listening.clips import write_clip
from sashimi_lib import pretrained
from sashimi_lib.audio import rms_db
from sashimi_lib.data import bundled
from sashimi_lib.evaluation.likelihood import clip_bits
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.streaming import best_engine
from sashimi_lib.training.checkpoint import load_checkpoint
from tools.train_pretrained import KEPT_STEPS, RUNS, TASKS, kept_path, untrained_model

NAME = "tunes"


def describe(model: Autoregressive, clip: str, seconds: float, samples: int) -> dict[str, Any]:
    """One clip from seed 0, its level, and the bits per sample of the bundled tunes, which are held out."""
    tune = bundled.tune()
    waveform = model.quantizer.decode(best_engine(model).generate(int(seconds * tune.sample_rate), seed=0)[0])
    return {
        "samples": samples,
        "bits": round(float(clip_bits(model, [model.quantizer.encode(tune.waveform)])[0]), 4),
        "dbfs": round(rms_db(waveform), 1),
        "clip": write_clip(f"learning_{clip}", waveform, tune.sample_rate),
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
        stages.append(describe(model, str(steps), options.seconds, samples))
    shipped = pretrained.load(NAME)
    stages.append(describe(shipped.model, "shipped", options.seconds, shipped.card.samples))
    save_result(
        "learning",
        question="What a model of tunes generates after 1, 10 and 100 million samples, and at its end",
        config={"seconds": options.seconds, "sample_rate": task.sample_rate, "temperature": 1.0},
        figures={"stages": stages},
        units={"samples": "samples of training", "bits": "bits per sample of the bundled tunes, held out"},
        repeats=1,
        seed=0,
        data="tunes on a vibraphone at 8 kHz, 8-bit mu-law",
    )


if __name__ == "__main__":
    main()
