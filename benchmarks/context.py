"""How much past is worth how many bits: one SaShiMi, trained on segments of different lengths.

    python benchmarks/context.py runs/data/piano --sample-rate 16000

The folder holds ``train`` and ``test``, whole recordings in each. Every length hears the same number of
samples in the same number of steps, on one CPU thread: shorter segments come more at a time. Once with few
steps, once with many. All are judged alike, on excerpts longer than any segment. About ten minutes. Writes
``book/results/context.json``.
"""

import argparse
import dataclasses
import itertools
from pathlib import Path

import torch
from autoregressive import bits, learn
from corpus import excerpts, pieces, recordings
from result import save_result

from sashimi_lib.evaluation.likelihood import mean_bits
from sashimi_lib.training.recipes import SMALL_SASHIMI

LENGTHS, SAMPLES = (512, 2_048, 8_192), 8_192
FACTOR = 2.0  # times the recipe's learning rates, as the comparison of models chose


def main() -> None:
    """Train at every length, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample-rate", type=int, default=16_000)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--seeds", type=int, default=1, help="runs of each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quantizer = SMALL_SASHIMI.quantizer
    codes = recordings(options.folder / "train", options.sample_rate, quantizer)
    judged = excerpts(
        recordings(options.folder / "test", options.sample_rate, quantizer), 4 * options.sample_rate, 400_000
    )
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    for steps, length, seed in itertools.product(options.steps, LENGTHS, range(options.seeds)):
        training = dataclasses.replace(SMALL_SASHIMI.training, batch_size=SAMPLES // length)
        recipe = dataclasses.replace(SMALL_SASHIMI, length=length, training=training)
        model = learn(recipe, pieces(codes, length), steps, FACTOR, seed)
        runs = figures.setdefault(str(steps), {}).setdefault(str(length), [])
        runs.append(mean_bits(bits(model, judged), judged)._asdict())
        print(steps, length, seed, runs[-1], flush=True)
    save_result(
        "context",
        question="Likelihood of a SaShiMi by the length of its training segments, at equal samples",
        config={"factor": FACTOR, "samples_per_step": SAMPLES, "sample_rate": options.sample_rate},
        figures={"test_bits": figures},
        units={
            "test_bits": "bits per sample, by steps and by samples a segment; 95 % interval over excerpts"
        },
        repeats=options.seeds,
        seed=0,
        data=f"{options.folder.name}: excerpts of 4 s of held-out recordings, 8-bit mu-law",
    )


if __name__ == "__main__":
    main()
