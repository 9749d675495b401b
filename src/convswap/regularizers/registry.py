"""The table of methods, filled by `@register_regularizer`."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from ..errors import UsageError, unknown_name
from .absent import NOT_OFFERED
from .contract import PLACES, Regularizer

C = TypeVar("C", bound=type[Regularizer])
REGULARIZERS: dict[str, type[Regularizer]] = {}
"""The methods by name."""
_FACTS = ("name", "family", "place", "paper", "summary", "cost")


def register_regularizer(cls: C) -> C:
    """Class decorator: put a method into the table.

    Raises:
        UsageError: the class is not a frozen dataclass, lacks a fact, has an option without default, or another class
            has its name.
    """
    if not (is_dataclass(cls) and cls.__dataclass_params__.frozen):
        raise UsageError(f"{cls.__qualname__} is not a frozen dataclass; write @dataclass(frozen=True) below")
    for fact in _FACTS:
        if not isinstance(getattr(cls, fact, None), str):
            raise UsageError(f"{cls.__qualname__} lacks the class attribute {fact!r}")
    if cls.place not in PLACES:
        raise unknown_name("place", cls.place, PLACES)
    if REGULARIZERS.setdefault(cls.name, cls) is not cls:
        raise UsageError(f"regularizer {cls.name!r} is registered twice; rename one")
    cls()  # every option needs a default that the method itself allows
    return cls


def get_regularizer(name: str) -> type[Regularizer]:
    """The class of a method.

    Raises:
        UsageError: there is no such method (the nearest names are given), or it is known and not offered (with the
            reason).
    """
    if name in NOT_OFFERED:
        raise UsageError(f"regularizer {name!r} is not offered: {NOT_OFFERED[name]}")
    joined = {known.replace("_", ""): known for known in REGULARIZERS}
    name = joined.get(name, name)  # papers write DropBlock and MaxDropout in one word
    if name not in REGULARIZERS:
        raise unknown_name("regularizer", name, REGULARIZERS)
    return REGULARIZERS[name]


def list_regularizers() -> list[str]:
    """The names of all methods: by family, then in the order in which they act, then by name."""
    families, places = ("data", "internal", "label"), list(PLACES)
    return sorted(REGULARIZERS, key=lambda n: (families.index((c := REGULARIZERS[n]).family), places.index(c.place), n))


def options_of(cls: type[Regularizer]) -> dict[str, Any]:
    """The options of a method with their defaults, in their order."""
    return {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]
