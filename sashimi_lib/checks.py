"""Check that numeric settings are in range; used by the ``__post_init__`` of configs."""

import math
from typing import Any


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


def _numbers(value: Any) -> tuple[int | float, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _and_finite(value: Any) -> str:
    return ", and finite" if math.inf in _numbers(value) else ""
