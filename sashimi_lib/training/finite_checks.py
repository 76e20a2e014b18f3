"""Checks and clipping of gradients: training stops at the first loss or gradient that is not finite."""

import math

import torch
from torch import Tensor, nn

from sashimi_lib.checks import check_parameters
from sashimi_lib.training.config import TrainingConfig


def check_gradients(model: nn.Module, loss: Tensor) -> float:
    """Return the loss as a number. Raises FloatingPointError, naming the parameter, if the loss or a gradient
    is not finite.

    Loss and gradient norms are read in one transfer: each read from a GPU waits for it.

    >>> model = nn.Linear(1, 1)
    >>> loss = model(torch.tensor([3.0])).sum()
    >>> loss.backward()
    >>> check_gradients(model, loss) == loss.item()
    True
    >>> loss = model(torch.tensor([float("inf")])).sum()
    >>> loss.backward()
    >>> check_gradients(model, loss)
    Traceback (most recent call last):
        ...
    FloatingPointError: training diverged: the loss is ...; the gradient of weight is not finite

    Chapter: 7.
    """
    with_gradient = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    norms = torch._foreach_norm([grad for _, grad in with_gradient])
    value, *sizes = torch.stack([loss.detach(), *norms]).tolist()
    if math.isfinite(value) and all(map(math.isfinite, sizes)):
        return value
    check_parameters(model, f"the loss is {value}; ")
    bad = [name for (name, _), size in zip(with_gradient, sizes, strict=True) if not math.isfinite(size)]
    where = f"the gradient of {bad[0]} is not finite" if bad else "parameters and gradients are finite"
    raise FloatingPointError(f"training diverged: the loss is {value}; {where}")


def clip_gradients(model: nn.Module, config: TrainingConfig) -> None:
    """Clip each gradient to ``config.clip_value`` and the norm of all gradients to ``config.clip_norm``.

    >>> model = nn.Linear(1, 1)
    >>> (100 * model.weight.sum()).backward()
    >>> clip_gradients(model, TrainingConfig(clip_value=1.0))
    >>> model.weight.grad
    tensor([[1.]])

    Chapter: 7.
    """
    if config.clip_value is not None:
        nn.utils.clip_grad_value_(model.parameters(), config.clip_value)
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
