"""The registry of classes that a model file may name: configurations, quantizers, noise schedules.

A file describes its model by plain values and the names of their classes. Reading a file builds objects of
registered classes only, so nothing in it is executed. A new class only has to be registered: no other list
names it.
"""

import dataclasses
from enum import EnumType
from typing import Any, TypeVar

Kind = TypeVar("Kind", bound=type)

_CLASSES: dict[str, type] = {}


def register(kind: Kind) -> Kind:
    """Register a class, so that files may name it: a decorator, placed above ``@dataclass(frozen=True)``.

    >>> @register
    ... @dataclasses.dataclass(frozen=True)
    ... class Gain:
    ...     decibels: float = 0.0
    >>> as_object(Gain(3.0))
    {'class': 'Gain', 'decibels': 3.0}
    >>> from_object({"class": "Gain", "decibels": 3.0})
    Gain(decibels=3.0)

    Defining a class again, as in a notebook, replaces it. Raises ValueError for a class that is not a frozen
    dataclass, and for a name that a class of another module already has.
    """
    if not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ValueError(f"kind must be a frozen dataclass, got {kind.__name__}")
    other = _CLASSES.get(kind.__name__, kind)
    if _path(other) != _path(kind):
        raise ValueError(f"kind must have a unique name, got {_path(kind)}: {_path(other)} has the same")
    _CLASSES[kind.__name__] = kind
    return kind


def as_object(value: Any) -> dict[str, Any]:
    """Return a value of a registered class as a JSON object: its class and its fields.

    >>> as_object(3)
    Traceback (most recent call last):
        ...
    ValueError: class int is not registered: decorate it with @sashimi_lib.registry.register

    Raises ValueError for any other class, also where its base class is registered.
    """
    kind = type(value)
    if _CLASSES.get(kind.__name__) is not kind:
        raise ValueError(
            f"class {kind.__name__} is not registered: decorate it with @sashimi_lib.registry.register"
        )
    return {"class": kind.__name__, **vars(value)}


def from_object(entries: dict[str, Any]) -> Any:
    """Return the value that a JSON object describes. An object without a class is returned as it is.

    >>> from_object({"class": "NoSuchConfig"})
    Traceback (most recent call last):
        ...
    ValueError: class NoSuchConfig is not registered: import the module that defines it first, ...

    Raises ValueError for a class that is not registered, and the errors of the class for invalid fields.
    """
    if "class" not in entries:
        return entries
    name, fields = entries["class"], {field: entry for field, entry in entries.items() if field != "class"}
    if name not in _CLASSES:
        raise ValueError(
            f"class {name} is not registered: import the module that defines it first, where it must be "
            "decorated with @sashimi_lib.registry.register"
        )
    kind: Any = _CLASSES[name]
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    return kind(**{name: _typed(types.get(name), entry) for name, entry in fields.items()})


def as_tuples(value: Any) -> Any:
    """Return a value with all lists, nested ones too, converted to tuples.

    >>> as_tuples([1, [2, 3]])
    (1, (2, 3))
    """
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def _typed(kind: Any, entry: Any) -> Any:
    """Convert an entry to the type of its field."""
    return kind(entry) if isinstance(kind, EnumType) else as_tuples(entry)


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
