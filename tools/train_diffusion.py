"""Train the small diffusion model of spoken digits that ships with the library, and pack it.

    python -m tools.train_diffusion runs/data/digits_jackson

The folder holds ``train``, ``valid`` and ``test``, with files named DIGIT_SPEAKER_NUMBER. About an hour on
one CPU thread; after an interruption the same command resumes. The weights of the best validation are
evaluated on ``test`` and written to ``sashimi_lib/weights``; with ``--pack``, the best so far.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.lib.corpus import load_digits
from benchmarks.lib.result import ROOT
from sashimi_lib.models import SaShiMiUNetConfig
from sashimi_lib.pretrained import WEIGHTS, ModelCard, save
from sashimi_lib.training.checkpoint import best_of, load_checkpoint
from sashimi_lib.training.recipes import DIGITS_DIFFUSION_SASHIMI, DiffusionRecipe
from sashimi_lib.training.trainer import train
from sashimi_lib.training.validation import validation_loss
from tools.train_pretrained import training_hours

NAME = "digits_diffusion"
CHECKPOINT = ROOT / "runs" / "pretrained" / f"{NAME}.pt"
SMALL = DIGITS_DIFFUSION_SASHIMI
NETWORK = SMALL.config.backbone
assert isinstance(NETWORK, SaShiMiUNetConfig)
# One tier more than the recipe, and fewer channels in the top tier, where samples are many. Twice the batch
# size at a smaller learning rate, for a longer run.
RECIPE: DiffusionRecipe = replace(
    SMALL,
    config=replace(SMALL.config, backbone=replace(NETWORK, d_model=16, pool=(4, 4, 4))),
    training=replace(
        SMALL.training, steps=3_000, batch_size=16, lr=0.002, ssm_lr=0.001, warmup=100, valid_every=300,
        checkpoint_every=300,
    ),
)  # fmt: skip


def main() -> None:
    """Train, evaluate, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pack", action="store_true", help="do not train: pack the best checkpoint so far")
    parser.add_argument("--hardware", default="one CPU core", help="for the card (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus = load_digits(options.folder, RECIPE.sample_rate, RECIPE.length)
    model = RECIPE.build(seed=0)
    if not options.pack:
        data, valid = corpus["train"].pairs(), corpus["valid"].pairs()
        train(model, data, RECIPE.training, CHECKPOINT, valid=valid, progress=sys.stderr.isatty())
    best = load_checkpoint(best_of(CHECKPOINT))
    model.load_state_dict(best["model"])
    model.half().float()  # rounded as in the file
    card = ModelCard(
        NAME,
        "Spoken digits by one speaker, 39 takes of each, normalized to a peak of 1, half a second long: 3 "
        "takes of each for validation, 5 for test",
        "Free Spoken Digit Dataset, Zohar Jackson and contributors, speaker jackson, CC BY-SA 4.0",
        steps=best["steps"],
        samples=best["steps"] * RECIPE.training.samples_per_step(RECIPE.length),
        hours=training_hours(NAME, 0, best),
        hardware=options.hardware,
        test_loss=validation_loss(model, corpus["test"].pairs()),
    )
    print(card)
    save(WEIGHTS / f"{NAME}.safetensors", model, RECIPE.sample_rate, card, torch.float16)


if __name__ == "__main__":
    main()
