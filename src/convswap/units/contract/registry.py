"""The table of units: one frozen row each, filled by `@register_unit` and by the entry points `convswap.units`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

from torch import nn

from ...errors import ConvswapError, UsageError, unknown_name
from .block import BlockUnit
from .checks import Kind, check_class, check_row
from .feature import FeatureUnit
from .weight import WeightUnit

C = TypeVar("C", bound=type[nn.Module])
WarmStart = Literal["exact", "approximate", "none"]
Fusion = Literal["conv", "cheaper", "none"]
Replaces = Literal["convolution", "block", "stage", "stem"]
Placement = Literal["paper", "inferred"]
TrainEval = Literal["same", "batch_norm", "stochastic"]
Gradient = Literal["exact", "straight_through"]
_LITERALS: dict[str, Any] = {
    "warm_start": WarmStart,
    "fusion": Fusion,
    "replaces": Replaces,
    "placement": Placement,
    "train_eval": TrainEval,
    "gradient": Gradient,
}

ENTRY_POINT_GROUP = "convswap.units"


@dataclass(frozen=True)
class UnitRow:
    """What the author of a unit declares about it.

    Attributes:
        name: registry name, snake case.
        paper: where it comes from, e.g. `"arXiv:2107.02451"`.
        year: of the paper.
        summary: one line.
        warm_start: what `from_conv` keeps: `"exact"` (the same function), `"approximate"`, or `"none"`. A block unit
            is always drawn fresh: `"none"`.
        fusion: what `fuse` gives: `"conv"` (a plain `nn.Conv2d`), `"cheaper"`, or `"none"`.
        replaces: what it stands for: a `"convolution"`, a residual `"block"`, a `"stage"` of blocks, or the `"stem"`
            (first convolution, BatchNorm, ReLU, max-pool).
        default_where: the selection `swap` uses when none is given.
        placement: `"paper"` when the paper says so, `"inferred"` when it is our reading.
        train_eval: does training compute what evaluation computes? `"same"`, `"batch_norm"` (batch statistics)
            or `"stochastic"` (random draws).
        variants: option sets that the contract tests run besides the defaults.
        no_weight_decay: parameter names (the last part) that recipes must not decay.
        constant_weight: the unit's `weight` is no parameter but a buffer of constants, which no host's values and no
            plain checkpoint can set.
        gradient: `"exact"` (the derivative of the forward pass), or `"straight_through"` (the forward pass has steps,
            and the backward pass is an estimator of its own).
        onnx: why the unit cannot be exported to ONNX; empty when it can.
    """

    name: str
    _: KW_ONLY
    paper: str
    year: int
    summary: str
    warm_start: WarmStart
    fusion: Fusion
    replaces: Replaces = "convolution"
    default_where: str = "spatial & !first"
    placement: Placement = "inferred"
    train_eval: TrainEval = "same"
    variants: tuple[Mapping[str, Any], ...] = ()
    no_weight_decay: Collection[str] = ()
    constant_weight: bool = False
    gradient: Gradient = "exact"
    onnx: str = ""


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

    A class, so that the fields are written once. Every fault of the row or of the class is refused in one line.

    Raises:
        UsageError: a field has a value that is not allowed, the class is no unit that this row can describe, or the
            name is taken by another class (both origins are named).
    """

    def __post_init__(self) -> None:
        check_row(self, _LITERALS)

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
        _UNITS[self.name] = UnitSpec(**row, cls=cast(Any, cls), kind=kind, origin=origin)
        return cls


def _load_entry_points() -> None:
    """Import third-party unit modules once. A broken one is an error that names it, not a missing unit."""
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    _entry_points_loaded = True  # set first: a unit's module may itself ask the registry
    try:
        for point in entry_points(group=ENTRY_POINT_GROUP):
            _load(point)
    except BaseException:
        _entry_points_loaded = False  # the next call must fail again, not miss the units that follow
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
    """The row whose class a module is exactly, or None for anything that is no unit."""
    _load_entry_points()
    return next((spec for spec in _UNITS.values() if spec.cls is type(module)), None)
