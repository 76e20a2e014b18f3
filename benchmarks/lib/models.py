"""The models whose speed is measured, and random data for them: times do not depend on what was learned."""

import dataclasses

import torch

from sashimi_lib.models import SaShiMiConfig, WaveRNN, WaveRNNConfig
from sashimi_lib.ssm.s4 import SSMConfig
from sashimi_lib.training import recipes
from sashimi_lib.training.pruning import Pruner, PruningConfig
from sashimi_lib.training.recipes import Recipe

PAPER_MODELS = {
    "SaShiMi-8": recipes.YOUTUBEMIX_SASHIMI_8,
    "WaveNet-1024": recipes.YOUTUBEMIX_WAVENET_1024,
    "SampleRNN, 3 tiers": recipes.YOUTUBEMIX_SAMPLERNN_3,
    "flat S4, 8 layers": recipes.YOUTUBEMIX_ISOTROPIC_8,
}
TINY_MODELS = {
    "tiny SaShiMi": dataclasses.replace(
        recipes.YOUTUBEMIX_SASHIMI_8,
        backbone=SaShiMiConfig(d_model=8, n_layers=1, pool=(4,), ssm=SSMConfig(d_state=8)),
        length=128,
    )
}
CPU_SEQUENCES = 8  # batch size on a CPU of a model trained by truncated back-propagation through time
SPARSITY, BLOCK = 0.9, (16, 1)  # of pruned WaveRNNs
SEED = 0


def reduced(recipe: Recipe, length: int) -> Recipe:
    """The same model with segments of ``length`` samples and a batch that a CPU can train."""
    carries_state = recipe.training.tbptt_length is not None
    training = dataclasses.replace(recipe.training, batch_size=CPU_SEQUENCES if carries_state else 1)
    return dataclasses.replace(recipe, length=length, training=training)


def random_codes(recipe: Recipe) -> list[torch.Tensor]:
    """Two batches of random segments."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(0, 256, (2 * recipe.training.batch_size, recipe.length), generator=generator))


def random_wavernn(d_hidden: int) -> WaveRNN:
    """An untrained WaveRNN."""
    torch.manual_seed(SEED)
    return WaveRNN(WaveRNNConfig(d_hidden))


def pruned_wavernn(d_hidden: int, block: tuple[int, int] = BLOCK) -> WaveRNN:
    """The same, pruned by magnitude in blocks."""
    model = random_wavernn(d_hidden)
    pruner = Pruner(model, PruningConfig(SPARSITY, block))
    pruner.prune(SPARSITY)
    pruner.bake_masks()
    return model
