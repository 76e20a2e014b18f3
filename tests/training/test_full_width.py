"""Every recipe of the papers at full width has the published size, and trains for two steps."""

import dataclasses
import math

import pytest
import torch

from sashimi_lib.audio.quantizers import CoarseFine
from sashimi_lib.training.checkpoint import load_checkpoint
from sashimi_lib.training.execution import ExecutionConfig, has_blocks
from sashimi_lib.training.recipes import RECIPES, DiffusionRecipe
from sashimi_lib.training.trainer import train
from tests.training.published import CODES, DIFFUSION

SIZES = CODES | DIFFUSION
LENGTH = 256  # samples: two chunks of SampleRNN, of two frames of its slowest tier each
DIFFUSION_LENGTH = 64  # four samples of a U-Net's slowest tier
UNUSED = {"backbone.layers.39.residual.weight"}  # the last layer of a WaveNet has an unused residual


@pytest.fixture
def checkpoint(tmp_path):
    """The path of a checkpoint of hundreds of megabytes, which is deleted after the test."""
    path = tmp_path / "run.pt"
    yield path
    path.unlink()


def sequences(recipe):
    """Return two sequences of noise."""
    if isinstance(recipe, DiffusionRecipe):
        return 2 * torch.rand(2, DIFFUSION_LENGTH) - 1
    pair = (2,) if isinstance(recipe.quantizer, CoarseFine) else ()
    return torch.randint(0, 256, (2, LENGTH, *pair))


def shortened(training):
    """Return the settings for two steps without validation; with TBPTT, two chunks of one batch."""
    tbptt_length = training.tbptt_length and LENGTH // 2
    return dataclasses.replace(training, steps=2, batch_size=2, tbptt_length=tbptt_length, decay="constant")


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_recipe_of_the_papers_trains_at_full_width(name, checkpoint):
    recipe, size = RECIPES[name], SIZES[name]
    model = recipe.build(0)
    trained = {key: x.detach().clone() for key, x in model.named_parameters() if x.requires_grad}
    assert sum(x.numel() for x in trained.values()) == size.trained
    assert sum(x.numel() for x in model.parameters()) == size.all
    little_memory = ExecutionConfig(activation_checkpointing=has_blocks(model))
    history = train(
        model,
        sequences(recipe),
        shortened(recipe.training),
        checkpoint,
        progress=False,
        execution=little_memory,
    )
    saved = load_checkpoint(checkpoint)
    assert saved["history"]["loss"].tolist() == history.loss
    assert len(history.loss) == 2
    assert all(map(math.isfinite, history.loss))
    weights = saved["model"]
    assert all(weights[key].equal(x) for key, x in model.state_dict().items())
    assert all(x.isfinite().all() for x in weights.values())
    assert {key for key, x in trained.items() if weights[key].equal(x)} <= UNUSED


def millions(parameters, like):
    """Return a number in millions with as many decimals as ``like``."""
    return f"{parameters / 1e6:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize("name", [name for name, size in SIZES.items() if size.printed is not None])
def test_the_printed_size_is_a_rounded_count(name):
    size = SIZES["youtubemix_sashimi_8" if name == "sc09_sashimi_8" else name]  # printed twice
    printed = SIZES[name].printed
    assert printed in (millions(size.trained, printed), millions(size.all, printed))
