"""What a model generates at stages of its training, from the same seed.

    python -m benchmarks.listening.learning

The weights that ``python -m tools.train_pretrained tunes`` keeps after about 1, 10 and 100 million samples,
and those that ship: held-out bits, and eight clips from seed 0 with their pitch, noise and level. The first
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
from sashimi_lib import pretrained
from sashimi_lib.audio import rms_db
from sashimi_lib.data import bundled
from sashimi_lib.evaluation.likelihood import clip_bits, mean_bits
from sashimi_lib.evaluation.noise import harmonics_to_noise
from sashimi_lib.evaluation.pitch import in_tune_share, pitch_track
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.streaming import best_engine
from sashimi_lib.training.checkpoint import load_checkpoint
from tools.train_pretrained import KEPT_STEPS, RUNS, TASKS, kept_path, untrained_model

NAME = "tunes"
CLIPS = 8


def sound(waveforms: Sequence[Tensor], sample_rate: int) -> dict[str, float]:
    """Means over waveforms of the measures of a melody."""
    measures = [
        (rms_db(x), in_tune_share(pitch_track(x, sample_rate)), harmonics_to_noise(x, sample_rate))
        for x in waveforms
    ]
    names = ("rms_db", "in_tune", "harmonics_to_noise_db")
    return {
        name: round(fmean(values), 3) for name, values in zip(names, zip(*measures, strict=True), strict=True)
    }


def describe(model: Autoregressive, name: str, seconds: float, samples: int) -> dict[str, Any]:
    """Held-out bits of a model and the measures of its clips, the first of which is written."""
    rate, held_out = bundled.tunes()[0].sample_rate, [clip.waveform for clip in bundled.tunes()]
    clips = model.quantizer.decode(best_engine(model).generate(int(seconds * rate), CLIPS, seed=0))
    codes = [model.quantizer.encode(waveform) for waveform in held_out]
    return {
        "samples": samples,
        "bits": round(mean_bits(clip_bits(model, codes), codes, range(len(codes))).mean, 4),
        "clip": write_clip(f"learning_{name}", clips[0], rate),
        **sound(list(clips), rate),
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
        figures={
            "stages": stages,
            "real": sound([clip.waveform for clip in bundled.tunes()], task.sample_rate),
        },
        units={
            "samples": "samples of training",
            "bits": "bits per sample of the bundled tunes, held out",
            "rms_db": "dBFS",
            "in_tune": "share of frames with one clear pitch within 20 cents of equal temperament",
        },
        repeats=1,
        seed=0,
        data="tunes on a vibraphone at 8 kHz, 8-bit mu-law",
    )


if __name__ == "__main__":
    main()
