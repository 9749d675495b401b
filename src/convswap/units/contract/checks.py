"""The registry's checks of a row and of its class. Every fault is one line that names it and the nearest fix."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, cast, get_args

from torch import nn

from ...errors import UsageError, is_whole
from .block import BlockUnit
from .feature import FeatureUnit
from .options import Configured, options_of, refuse_unknown, writes_constructor
from .row import LITERALS, Kind, UnitRow
from .weight import WeightUnit
from .where import check_default

RESERVED = frozenset({"model", "unit", "where", "start", "example_input", "conv", "place", "self", "cls"})
"""Names that `swap`, `plan_swap`, `from_conv` and `at` use themselves. No option may have one of them."""


def check_row(row: UnitRow) -> None:
    """Raise a `UsageError` for the first field whose value is not allowed."""
    if not isinstance(row.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", row.name):
        near = re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(row.name))).strip("_0123456789").lower()
        raise UsageError(f"unit name {row.name!r} is not allowed; write it in snake case, e.g. {near or 'my_unit'!r}")
    for field, literal in LITERALS.items():
        _check_literal(row, field, get_args(literal))
    if not is_whole(row.year) or not 1900 <= row.year <= 2100:
        raise _wrong(row, "year", "give the year of the paper, e.g. 2024")
    for field in ("paper", "summary"):
        text = getattr(row, field)
        if not isinstance(text, str) or not text.strip() or len(text.splitlines()) > 1:
            raise _wrong(row, field, "give one line of text")
    if not isinstance(row.constant_weight, bool):
        raise _wrong(row, "constant_weight", "it must be True or False")
    if isinstance(row.variants, Mapping | str) or not all(isinstance(v, Mapping) for v in _items(row.variants)):
        raise _wrong(row, "variants", "give a tuple of option sets, e.g. ({'radius': 1.2},)")
    names = [] if isinstance(row.no_weight_decay, str) else _items(row.no_weight_decay)
    if isinstance(row.no_weight_decay, str) or not all(isinstance(n, str) and n.isidentifier() for n in names):
        raise _wrong(row, "no_weight_decay", "give a tuple of parameter names, e.g. ('gain',)")
    if not isinstance(row.default_where, str):
        raise _wrong(row, "default_where", "give a selection, e.g. 'spatial & !first'")
    try:
        check_default(row.default_where, block=row.replaces != "convolution")
    except UsageError as error:
        raise UsageError(f"unit {row.name!r}: default_where={row.default_where!r}: {error}") from error


def check_class(row: UnitRow, cls: type[nn.Module]) -> Kind:
    """The kind of a row's class; a `UsageError` if the class cannot be a unit, or not this row's unit."""
    who = f"unit {row.name!r}: {getattr(cls, '__qualname__', cls)}"
    if not isinstance(cls, type) or not issubclass(cls, WeightUnit | FeatureUnit | BlockUnit):
        raise UsageError(f"{who} is not a unit; derive it from WeightUnit, FeatureUnit or BlockUnit")
    if writes_constructor(cls):
        raise UsageError(
            f"{who} writes __init__; write its options as setup(self, *, option=default) and leave the constructor to "
            "the base"
        )
    kind = _kind(cls)
    if kind == "block" and row.replaces == "convolution":
        raise UsageError(f"{who} is a BlockUnit; say what it replaces: replaces='block', 'stage' or 'stem'")
    if kind != "block" and row.replaces != "convolution":
        raise UsageError(f"{who} stands for a convolution; replaces={row.replaces!r} needs a BlockUnit")
    if kind == "block" and row.warm_start != "none":
        raise UsageError(f"{who} is a BlockUnit, which always starts fresh; declare warm_start='none'")
    if kind == "weight" and cast(type[WeightUnit], cls).effective_weight is WeightUnit.effective_weight:
        raise UsageError(f"{who} lacks effective_weight(); a WeightUnit must write it")
    if cls.forward is nn.Module.forward:
        raise UsageError(f"{who} lacks forward(); a FeatureUnit or BlockUnit must write it")
    _check_options(row, who, cls)
    return kind


def _kind(cls: type[nn.Module]) -> Kind:
    if issubclass(cls, BlockUnit):
        return "block"
    # A WeightUnit with a forward of its own is more than one convolution of its input.
    return "weight" if issubclass(cls, WeightUnit) and cls.forward is WeightUnit.forward else "feature"


def _check_options(row: UnitRow, who: str, cls: type[Configured]) -> None:
    options = options_of(cls)
    for name, default in options.items():
        if name in RESERVED:
            raise UsageError(f"{who}: an option cannot be called {name!r}, which swap takes for itself; rename it")
        if default is inspect.Parameter.empty:
            raise UsageError(f"{who}: the option {name!r} has no default; give it the paper's value")
    for variant in row.variants:
        try:
            refuse_unknown(f"unit {row.name!r}", options, variant)
        except UsageError as error:
            raise UsageError(f"variants={dict(variant)!r}: {error}") from error


def _check_literal(row: UnitRow, field: str, allowed: Iterable[str]) -> None:
    value = getattr(row, field)
    choices = list(allowed)
    if value not in choices:
        near = get_close_matches(str(value), choices, n=1)
        raise _wrong(row, field, f"did you mean {near[0]!r}?" if near else "choose one of " + ", ".join(choices))


def _wrong(row: UnitRow, field: str, fix: str) -> UsageError:
    return UsageError(f"unit {row.name!r}: {field}={getattr(row, field)!r} is not allowed; {fix}")


def _items(values: Any) -> list[Any]:
    return list(values) if isinstance(values, Iterable) else [None]
