"""Train the small diffusion model that ships with the library, which says spoken digits by name, and pack it.

    python tools/train_diffusion.py runs/data/digits_jackson

A folder with ``train``, ``valid`` and ``test``, and files called DIGIT_SPEAKER_NUMBER in each. About an hour
on one CPU thread; stopped, the same command goes on. The weights of the best validation are then judged on
``test`` and written to ``sashimi_lib/weights``; with ``--pack``, the best so far.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "benchmarks")]

from corpus import sounds

from sashimi_lib.models import SaShiMiUNetConfig
from sashimi_lib.pretrained import WEIGHTS, ModelCard, save
from sashimi_lib.training.checkpoint import best_of, load_checkpoint
from sashimi_lib.training.recipes import DIGITS_DIFFUSION_SASHIMI, DiffusionRecipe
from sashimi_lib.training.trainer import train
from sashimi_lib.training.validation import validation_loss

NAME = "digits_diffusion"
CHECKPOINT = ROOT / "runs" / "pretrained" / f"{NAME}.pt"
SMALL = DIGITS_DIFFUSION_SASHIMI
NETWORK = SMALL.config.backbone
assert isinstance(NETWORK, SaShiMiUNetConfig)
# One tier more than the recipe has, and thinner at the top: few channels where samples are many, and many
# where they are few. Twice the batch at a smaller rate, for a longer run.
RECIPE: DiffusionRecipe = replace(
    SMALL,
    config=replace(SMALL.config, backbone=replace(NETWORK, d_model=16, pool=(4, 4, 4))),
    training=replace(
        SMALL.training, steps=3_000, batch_size=16, lr=0.002, ssm_lr=0.001, warmup=100, valid_every=300,
        checkpoint_every=300,
    ),
)  # fmt: skip


def main() -> None:
    """Train to the end, judge, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pack", action="store_true", help="do not train: pack the best weights so far")
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus = sounds(options.folder, RECIPE.sample_rate, RECIPE.length)
    model = RECIPE.build(seed=0)
    if not options.pack:
        train(model, corpus["train"].pairs(), RECIPE.training, CHECKPOINT, valid=corpus["valid"].pairs())
    best = load_checkpoint(best_of(CHECKPOINT))
    model.load_state_dict(best["model"])
    model.half().float()  # as the file will keep it
    card = ModelCard(
        NAME,
        "Spoken digits by one speaker, 39 takes of each, brought to a peak of 1 and half a second: 3 takes "
        "of each to choose by, 5 to be judged by",
        "Free Spoken Digit Dataset, Zohar Jackson and contributors, speaker jackson, CC BY-SA 4.0",
        steps=best["steps"],
        samples=best["steps"] * RECIPE.training.samples_per_step(RECIPE.length),
        test_loss=validation_loss(model, corpus["test"].pairs()),
    )
    print(card)
    save(WEIGHTS / f"{NAME}.safetensors", model, RECIPE.sample_rate, card, torch.float16)


if __name__ == "__main__":
    main()
