"""Checks that name what they refuse: settings that are out of range, parameters that are not finite."""

import math
from typing import Any

import torch
from torch import nn


def at_least(settings: Any, least: int, *names: str) -> None:
    """Raise ValueError, naming the setting, if one is below ``least``, infinite or NaN.

    Every entry of a tuple is checked; None is allowed.

    >>> from types import SimpleNamespace
    >>> at_least(SimpleNamespace(steps=3, pool=(4, 0)), 1, "steps", "pool")
    Traceback (most recent call last):
        ...
    ValueError: pool must be at least 1, got (4, 0)
    """
    for name in names:
        value = getattr(settings, name)
        if not all(least <= number < math.inf for number in _numbers(value)):
            raise ValueError(f"{name} must be at least {least}{_and_finite(value)}, got {value}")


def above(settings: Any, bound: int, *names: str) -> None:
    """Raise ValueError, naming the setting, if one is not above ``bound``, infinite or NaN.

    Every entry of a tuple is checked; None is allowed.

    >>> from types import SimpleNamespace
    >>> above(SimpleNamespace(lr=math.inf), 0, "lr")
    Traceback (most recent call last):
        ...
    ValueError: lr must be above 0, and finite, got inf
    """
    for name in names:
        value = getattr(settings, name)
        if not all(bound < number < math.inf for number in _numbers(value)):
            raise ValueError(f"{name} must be above {bound}{_and_finite(value)}, got {value}")


def check_parameters(model: nn.Module, what: str = "") -> None:
    """Raise FloatingPointError, naming the first one, where a parameter is not finite.

    Chapter: 7.
    """
    names, parameters = zip(*model.named_parameters(), strict=True)
    if torch.stack(torch._foreach_norm(parameters)).isfinite().all():
        return
    for name, parameter in zip(names, parameters, strict=True):
        if not parameter.isfinite().all():
            raise FloatingPointError(
                f"training diverged: {what}parameter {name} holds a number that is not finite"
            )


def _numbers(value: Any) -> tuple[int | float, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _and_finite(value: Any) -> str:
    return ", and finite" if math.inf in _numbers(value) else ""
