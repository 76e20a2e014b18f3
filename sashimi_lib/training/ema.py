"""Exponential moving average of the weights: often better than the weights of any single step."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def new_ema_model(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a model whose weights are an exponential moving average of the model's.

    Each ``update_parameters(model)`` sets ``a <- d a + (1 - d) w`` with ``d = min(decay, (1 + n) / (10 +
    n))`` after n updates. The smaller d at the start makes the initial random weights fade, also in a short
    run. ``.module`` is the averaged model.

    >>> model = nn.Linear(1, 1)
    >>> ema_model = new_ema_model(model, 0.9)
    >>> ema_model.update_parameters(model)
    >>> torch.equal(ema_model.module.weight, model.weight)
    True

    Chapter: 7. Raises ValueError for a decay outside (0, 1).
    """
    if not 0 < decay < 1:
        raise ValueError(f"decay must lie between 0 and 1, got {decay}")

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        n = int(updates)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(model, multi_avg_fn=update)
