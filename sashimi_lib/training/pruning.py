"""Magnitude pruning: during training of a WaveRNN its smallest weights gradually become zero (chapter 8).

    z(t) = Z (1 - (1 - (t - t_0)/S)^3)

is the sparsity, the fraction of weights that are zero, after t steps: 0 up to t_0, rising fast at first,
while most weights are redundant, and Z from t_0 + S on. The remaining weights adapt as they train. The
sparsity is the same in every layer, and in each of the gates R_u, R_r and R_e.
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
    """Settings of pruning: final sparsity, block size (rows, columns), and schedule in steps.

    The defaults are the paper's, for a run of 500,000 steps.

    Blocks of (16, 1) or (4, 4) weights are pruned together; (1, 1) prunes single weights. Pruning starts
    after ``start`` steps, and continues for ``ramp`` steps, once in ``every`` steps.

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
        """Return z(t), the fraction of weights that should be zero after ``steps`` steps.

        >>> pruning = PruningConfig(sparsity=0.8, start=10, ramp=100)
        >>> [pruning.target_sparsity(steps) for steps in (10, 60, 500)]
        [0.0, 0.7000000000000001, 0.8]
        """
        progress = min(max((steps - self.start) / self.ramp, 0), 1)
        return self.sparsity * (1 - (1 - progress) ** 3)


def magnitude_mask(
    weight: Float[Tensor, "rows columns"], sparsity: float, block: tuple[int, int] = (1, 1)
) -> Bool[Tensor, "rows columns"]:
    """Return a mask that is false for the fraction ``sparsity`` of blocks with the smallest mean magnitude.

    >>> magnitude_mask(torch.tensor([[1.0, -4.0], [3.0, 2.0]]), sparsity=0.5)
    tensor([[False,  True],
            [ True, False]])
    >>> magnitude_mask(torch.tensor([[1.0, -4.0], [3.0, 2.0]]), sparsity=0.5, block=(2, 1))
    tensor([[False,  True],
            [False,  True]])

    Chapter: 8. WaveRNN paper, section 3. Raises ValueError for a block size that does not divide the matrix.
    """
    if any(size % side for size, side in zip(weight.shape, block, strict=True)):
        raise ValueError(f"block must divide a matrix of {tuple(weight.shape)}, got {block}")
    height, width = block
    tiles = weight.abs().unflatten(1, (-1, width)).unflatten(0, (-1, height)).mean((1, 3))
    smallest = tiles.flatten().argsort(stable=True)[: round(sparsity * tiles.numel())]
    mask = torch.ones(tiles.numel(), dtype=torch.bool, device=weight.device).index_fill(0, smallest, False)
    return mask.view_as(tiles).repeat_interleave(height, 0).repeat_interleave(width, 1)


class Mask(nn.Module):
    """A parametrization that masks a weight: zero, with zero gradient, where the mask is false."""

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weight."""
        return weight * self.mask


class Pruner:
    """Prunes a WaveRNN during training: ``train(model, ..., on_step=Pruner(model, PruningConfig()))``.

    It adds masks to the large matrices of the model. The masks are part of the model's state, so checkpoints
    hold them, and a resumed run prunes as an uninterrupted one. `bake_masks` removes them again.

    >>> from sashimi_lib.models import WaveRNNConfig
    >>> from sashimi_lib.training.trainer import TrainingConfig, train
    >>> model = WaveRNN(WaveRNNConfig(d_hidden=32))
    >>> codes = model.quantizer.encode(torch.zeros(2, 20))
    >>> pruner = Pruner(model, PruningConfig(sparsity=0.75, start=2, ramp=6, every=2))
    >>> _ = train(model, codes, TrainingConfig(steps=8), on_step=pruner, progress=False)
    >>> pruner.bake_masks()
    >>> float((model.R.weight == 0).float().mean())
    0.75

    With ``valid``, training ends with the weights of the lowest validation loss, which may be those of a
    still dense model. So validate only after pruning: ``valid_every`` of at least ``start + ramp``.

    Chapter: 8. WaveRNN paper, section 3. Raises ValueError for a block size that does not divide the
    matrices.
    """

    def __init__(self, model: WaveRNN, pruning: PruningConfig) -> None:
        self.model, self.pruning = model, pruning
        self.masks: dict[str, Mask] = {}
        for name in LAYERS:
            self._mask(name, 0.0)  # raises for a block size that does not fit, before anything is changed
        for name in LAYERS:
            self.masks[name] = Mask(getattr(model, name).weight)
            parametrize.register_parametrization(getattr(model, name), "weight", self.masks[name])

    def __call__(self, step: int, loss: float) -> None:
        """Prune after step ``step``, counted from 0, if the schedule says so."""
        steps = step + 1
        if steps > self.pruning.start and steps % self.pruning.every == 0:
            self.prune(self.pruning.target_sparsity(steps))

    def prune(self, sparsity: float) -> None:
        """Prune every matrix to a sparsity. Weights that are zero stay zero: no magnitude is smaller."""
        for name, mask in self.masks.items():
            mask.mask.copy_(self._mask(name, sparsity))

    def bake_masks(self) -> None:
        """Store the masked weights as plain weights, and remove the masks.

        Raises ValueError, and changes nothing, if the model is less sparse than the final sparsity.
        """
        target = self.pruning.sparsity
        for name, mask in self.masks.items():
            if (mask.mask & ~self._mask(name, target)).any():
                sparsity = 1 - float(mask.mask.float().mean())
                raise ValueError(f"model must have a sparsity of {target:.1%} in {name}, got {sparsity:.1%}")
        for name in self.masks:
            parametrize.remove_parametrizations(getattr(self.model, name), "weight")

    @torch.no_grad()
    def _mask(self, name: str, sparsity: float) -> Tensor:
        """Return the mask of a matrix with a sparsity: per gate for R, of the whole matrix for others."""
        gates = getattr(self.model, name).weight.chunk(3 if name == "R" else 1)
        return torch.cat([magnitude_mask(gate, sparsity, self.pruning.block) for gate in gates])
