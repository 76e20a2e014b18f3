"""The first draws of the 16-bit models that ship: the clips of chapter 8.

    python benchmarks/voices.py

Four of each, as anybody gets them from ``generate`` with seed 0. Nothing is chosen. Writes the clips and
``book/results/voices.json``. About two minutes on one CPU thread.
"""

import argparse

import torch
from listening import DRAWS, first_draws
from result import save_result

MODELS = ("digits16", "wavernn")


def main() -> None:
    """Draw, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of the clips")
    options = parser.parse_args()
    torch.set_num_threads(1)
    save_result(
        "voices",
        question="What the shipped 16-bit models say at first draw",
        config={"seconds": options.seconds, "draws": DRAWS},
        figures={"draws": {name: first_draws(name, options.seconds) for name in MODELS}},
        repeats=1,
        seed=0,
        data="the models that ship (sashimi_lib.pretrained)",
    )


if __name__ == "__main__":
    main()
