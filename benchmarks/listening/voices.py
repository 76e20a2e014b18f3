"""Clips that the shipped 16-bit models generate.

    python -m benchmarks.listening.voices

Four of each, as anybody gets them from ``generate`` with seed 0, unselected. Writes the clips and
``book/results/voices.json``. About two minutes on one CPU thread.
"""

import argparse

import torch

from benchmarks.lib.result import save_result
from benchmarks.listening.clips import N_CLIPS, write_clips

MODELS = ("digits16", "wavernn")


def main() -> None:
    """Generate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of the clips")
    options = parser.parse_args()
    torch.set_num_threads(1)
    save_result(
        "voices",
        question="What the shipped 16-bit models generate, unselected",
        config={"seconds": options.seconds, "draws": N_CLIPS},
        figures={"draws": {name: write_clips(name, options.seconds) for name in MODELS}},
        repeats=1,
        seed=0,
        data="the models that ship (sashimi_lib.pretrained)",
    )


if __name__ == "__main__":
    main()
