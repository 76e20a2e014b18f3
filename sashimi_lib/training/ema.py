"""An average of the weights that follows training at a distance: often better than any single step."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of a model whose weights become, at each ``update_parameters(model)``,
    ``a <- d a + (1 - d) w`` with ``d = min(decay, (1 + n) / (10 + n))`` after n updates.

    The smaller d at the start lets the average forget the random weights it began with, however short the
    run. ``.module`` is the averaged model.

    >>> model = nn.Linear(1, 1)
    >>> average = moving_average(model, 0.9)
    >>> average.update_parameters(model)
    >>> torch.equal(average.module.weight, model.weight)
    True

    Chapter: 7. Raises ValueError for a decay outside (0, 1).
    """
    if not 0 < decay < 1:
        raise ValueError(f"decay must lie between 0 and 1, got {decay}")

    @torch.no_grad()
    def blend(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        n = int(updates)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(model, multi_avg_fn=blend)
