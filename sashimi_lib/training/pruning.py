"""Magnitude pruning: while a WaveRNN trains, more and more of its smallest weights become zero (chapter 8).

    z(t) = Z (1 - (1 - (t - t_0)/S)^3)

is the share of the weights that is gone after t steps: none up to t_0, then quickly more, while most of them
are superfluous, and Z from t_0 + S on. What remains learns to do without. Each layer loses the same share,
and so do R_u, R_r and R_e, each for itself.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sashimi_lib.checks import at_least
from sashimi_lib.models.sparse import LAYERS
from sashimi_lib.models.wavernn import WaveRNN


@dataclass(frozen=True)
class PruningConfig:
    """How much to prune, in which blocks of (rows, columns), and when.

    The defaults are the paper's, for a run of 500,000 steps.

    Blocks of (16, 1) or (4, 4) weights go together, (1, 1) is each weight by itself. Pruning begins after
    ``start`` steps, goes on for ``ramp`` steps, and happens every ``every`` steps.

    Chapter: 8. WaveRNN paper, section 3. Raises ValueError for a setting that is out of range.
    """

    sparsity: float = 0.9
    block: tuple[int, int] = (16, 1)
    start: int = 1_000
    ramp: int = 200_000
    every: int = 500

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), got {self.sparsity}")
        at_least(self, 1, "block", "ramp", "every")
        at_least(self, 0, "start")

    def target_sparsity(self, steps: int) -> float:
        """z(t): the share of weights that is to be zero after so many steps.

        >>> [PruningConfig(sparsity=0.8, start=10, ramp=100).target_sparsity(steps) for steps in (10, 60, 500)]
        [0.0, 0.7000000000000001, 0.8]
        """
        done = min(max((steps - self.start) / self.ramp, 0), 1)
        return self.sparsity * (1 - (1 - done) ** 3)


def magnitude_mask(
    weight: Float[Tensor, "rows columns"], share: float, block: tuple[int, int] = (1, 1)
) -> Bool[Tensor, "rows columns"]:
    """Which weights stay when a ``target_sparsity`` of all blocks goes, those of the smallest mean magnitude.

    >>> magnitude_mask(torch.tensor([[1.0, -4.0], [3.0, 2.0]]), share=0.5)
    tensor([[False,  True],
            [ True, False]])
    >>> magnitude_mask(torch.tensor([[1.0, -4.0], [3.0, 2.0]]), share=0.5, block=(2, 1))
    tensor([[False,  True],
            [False,  True]])

    Chapter: 8. WaveRNN paper, section 3. Raises ValueError for blocks that do not fill the matrix.
    """
    if any(size % side for size, side in zip(weight.shape, block, strict=True)):
        raise ValueError(f"block must divide a matrix of {tuple(weight.shape)}, got {block}")
    height, width = block
    tiles = weight.abs().unflatten(1, (-1, width)).unflatten(0, (-1, height)).mean((1, 3))
    smallest = tiles.flatten().argsort(stable=True)[: round(share * tiles.numel())]
    stays = torch.ones(tiles.numel(), dtype=torch.bool, device=weight.device).index_fill(0, smallest, False)
    return stays.view_as(tiles).repeat_interleave(height, 0).repeat_interleave(width, 1)


class Mask(nn.Module):
    """A parametrization: the weight where the mask is true, and zero elsewhere, as is its gradient there."""

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight."""
        return weight * self.mask


class Pruner:
    """Prunes a WaveRNN as it trains: ``train(model, ..., on_step=Pruner(model, PruningConfig()))``.

    From now on the large matrices of the model have masks, which are part of its state: checkpoints carry
    them, and a run that is taken up again prunes as if it had never stopped. `finish` ends this.

    >>> from sashimi_lib.models import WaveRNNConfig
    >>> from sashimi_lib.training.trainer import TrainingConfig, train
    >>> model = WaveRNN(WaveRNNConfig(d_hidden=32))
    >>> codes = model.quantizer.encode(torch.zeros(2, 20))
    >>> pruner = Pruner(model, PruningConfig(sparsity=0.75, start=2, ramp=6, every=2))
    >>> _ = train(model, codes, TrainingConfig(steps=8), on_step=pruner, progress=False)
    >>> pruner.bake_masks()
    >>> float((model.R.weight == 0).float().mean())
    0.75

    With ``valid``, training hands over the best weights by these, and a dense model may well be better than
    what becomes of it. So let the first validation come when the last block is gone: ``valid_every`` of at
    least ``start + ramp``.

    Chapter: 8. WaveRNN paper, section 3. Raises ValueError for blocks that do not fill the matrices.
    """

    def __init__(self, model: WaveRNN, pruning: PruningConfig) -> None:
        self.model, self.pruning = model, pruning
        self.masks: dict[str, Mask] = {}
        for name in LAYERS:
            self._stays(name, 0.0)  # raises where blocks do not fit, before anything is changed
        for name in LAYERS:
            self.masks[name] = Mask(getattr(model, name).weight)
            parametrize.register_parametrization(getattr(model, name), "weight", self.masks[name])

    def __call__(self, step: int, bits: float) -> None:
        """After step number ``step``, counted from 0, prune if it is time to."""
        steps = step + 1
        if steps > self.pruning.start and steps % self.pruning.every == 0:
            self.prune(self.pruning.target_sparsity(steps))

    def prune(self, share: float) -> None:
        """Bring the share of zeros to ``target_sparsity``. What is zero stays so: nothing is smaller."""
        for name, mask in self.masks.items():
            mask.mask.copy_(self._stays(name, share))

    def bake_masks(self) -> None:
        """Make the zeros plain weights, and the model an ordinary one again.

        Raises ValueError, and changes nothing, where the model is denser than was asked for.
        """
        asked = self.pruning.sparsity
        for name, mask in self.masks.items():
            if (mask.mask & ~self._stays(name, asked)).any():
                zeros = 1 - float(mask.mask.float().mean())
                raise ValueError(f"model must have {asked:.1%} of zeros in {name} by now, got {zeros:.1%}")
        for name in self.masks:
            parametrize.remove_parametrizations(getattr(self.model, name), "weight")

    @torch.no_grad()
    def _stays(self, name: str, share: float) -> Tensor:
        """The mask of a matrix that loses a share: each gate of R for itself, the others as a whole."""
        gates = getattr(self.model, name).weight.chunk(3 if name == "R" else 1)
        return torch.cat([magnitude_mask(gate, share, self.pruning.block) for gate in gates])
