"""The table of units: one frozen row each, filled by `@register_unit` and by the entry points `convswap.units`."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, TypeVar, cast

from torch import nn

from ...errors import ConvswapError, UsageError, unknown_name
from .block import BlockUnit
from .checks import check_class, check_row
from .feature import FeatureUnit
from .row import Kind, UnitRow
from .weight import WeightUnit

C = TypeVar("C", bound=type[nn.Module])

ENTRY_POINT_GROUP = "convswap.units"


@dataclass(frozen=True, kw_only=True)
class UnitSpec(UnitRow):
    """One row of the registry: what the author declares, and what follows from the class.

    Attributes:
        cls: the class, with an `nn.Conv2d`'s constructor arguments (a block unit's are those of `BlockUnit`) and
            keyword-only options.
        kind: `"weight"` (a `WeightUnit`: one convolution with a computed weight), `"block"` (a `BlockUnit`: stands for
            more than one convolution), `"feature"` (anything else that has a convolution's shapes).
        origin: where the row was registered, `module:class`.
    """

    no_weight_decay: frozenset[str] = frozenset()
    cls: type[WeightUnit] | type[FeatureUnit] | type[BlockUnit]
    kind: Kind
    origin: str


_UNITS: dict[str, UnitSpec] = {}
_entry_points_loaded = False


@dataclass(frozen=True)
class register_unit(UnitRow):
    """Class decorator that adds a row to the registry; see `UnitRow` for the arguments.

    It is a class so that the fields are written once. Every fault of the row or of the class is refused in one line.

    Raises:
        UsageError: a field has a value that is not allowed, the class is not a unit that this row can describe, or the
            name is taken by another class (both origins are named).
    """

    def __post_init__(self) -> None:
        check_row(self)

    def __call__(self, cls: C) -> C:
        """Add the class."""
        kind = check_class(self, cls)
        origin = f"{cls.__module__}:{cls.__qualname__}"
        present = _UNITS.get(self.name)
        if present is not None and present.origin != origin:
            raise UsageError(f"unit {self.name!r} is registered twice: by {present.origin} and by {origin}; rename one")
        row = vars(self) | {
            "variants": tuple(MappingProxyType(dict(v)) for v in self.variants),
            "no_weight_decay": frozenset(self.no_weight_decay),
        }
        spec = _UNITS[self.name] = UnitSpec(**row, cls=cast(Any, cls), kind=kind, origin=origin)
        known = vars(cls).get("_registered")
        if known is None or known.name == self.name:  # under a second name a class keeps the first
            cast(Any, cls)._registered = spec  # its marks and its loading ask the class, which knows no registry
        return cls


def _load_entry_points() -> None:
    """Import third-party unit modules once. A broken module raises an error that names it."""
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    _entry_points_loaded = True  # set first: a unit's module may itself ask the registry
    try:
        for point in entry_points(group=ENTRY_POINT_GROUP):
            _load(point)
    except BaseException:
        _entry_points_loaded = False  # the next call must fail again, not silently miss the later units
        raise


def _load(point: EntryPoint) -> None:
    try:
        point.load()
    except ConvswapError:
        raise
    except Exception as error:
        distribution = point.dist.name if point.dist else "an unknown package"
        raise UsageError(
            f"entry point {point.name!r} ({point.value}) of {distribution} failed to load: "
            f"{type(error).__name__}: {error}"
        ) from error


def list_units(pattern: str = "*") -> list[str]:
    """Names of the registered units that match a wildcard, sorted.

    >>> list_units("circle")
    ['circle']
    """
    _load_entry_points()
    return sorted(name for name in _UNITS if fnmatchcase(name, pattern))


def get_unit(name: str) -> UnitSpec:
    """The row of a unit.

    Raises:
        UsageError: no such unit; the nearest names are given.
    """
    _load_entry_points()
    if name not in _UNITS:
        raise unknown_name("unit", name, _UNITS)
    return _UNITS[name]


def spec_of(module: nn.Module) -> UnitSpec | None:
    """The registry row of exactly this class, or None if the module is not a unit."""
    _load_entry_points()
    return next((spec for spec in _UNITS.values() if spec.cls is type(module)), None)
