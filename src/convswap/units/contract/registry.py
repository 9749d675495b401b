"""The table of units: one frozen row each, filled by `@register_unit` and by the entry points `convswap.units`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from torch import nn

from ...errors import ConvswapError, UsageError, unknown_name

C = TypeVar("C", bound=type[nn.Module])
Kind = Literal["weight", "feature", "block"]
WarmStart = Literal["exact", "approximate", "none"]
Fusion = Literal["conv", "cheaper", "none"]
TrainEval = Literal["same", "batch_norm", "stochastic"]
Replaces = Literal["convolution", "block", "stage", "stem"]
Gradient = Literal["exact", "straight_through"]

ENTRY_POINT_GROUP = "convswap.units"


@dataclass(frozen=True)
class UnitSpec:
    """One row of the registry: what the rest of the house may rely on.

    Attributes:
        name: registry name, snake case.
        cls: the class, with an `nn.Conv2d`'s constructor arguments (a block unit's are those of `BlockUnit`) and
            keyword-only options.
        kind: `"weight"` (one convolution with a computed weight), `"feature"` (anything else that has a convolution's
            shapes), `"block"` (stands for more than one convolution).
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
        origin: where the row was registered, `module:class`.
    """

    name: str
    cls: type[nn.Module]
    kind: Kind
    paper: str
    year: int
    summary: str
    warm_start: WarmStart
    fusion: Fusion
    replaces: Replaces = "convolution"
    default_where: str = "spatial & !first"
    placement: Literal["paper", "inferred"] = "inferred"
    train_eval: TrainEval = "same"
    variants: tuple[Mapping[str, Any], ...] = ()
    no_weight_decay: frozenset[str] = field(default_factory=frozenset)
    constant_weight: bool = False
    gradient: Gradient = "exact"
    onnx: str = ""
    origin: str = ""


_UNITS: dict[str, UnitSpec] = {}
_entry_points_loaded = False


def register_unit(
    name: str,
    *,
    kind: Kind,
    paper: str,
    year: int,
    summary: str,
    warm_start: WarmStart,
    fusion: Fusion,
    replaces: Replaces = "convolution",
    default_where: str = "spatial & !first",
    placement: Literal["paper", "inferred"] = "inferred",
    train_eval: TrainEval = "same",
    variants: tuple[Mapping[str, Any], ...] = (),
    no_weight_decay: tuple[str, ...] = (),
    constant_weight: bool = False,
    gradient: Gradient = "exact",
    onnx: str = "",
) -> Callable[[C], C]:
    """Class decorator that adds a row to the registry; see `UnitSpec` for the arguments.

    Raises:
        UsageError: the name is taken by another class (both origins are named), or `replaces` contradicts `kind`.
    """
    if (kind == "block") != (replaces != "convolution"):
        raise UsageError(f"unit {name!r}: kind={kind!r} and replaces={replaces!r} contradict each other")

    def add(cls: C) -> C:
        origin = f"{cls.__module__}:{cls.__qualname__}"
        present = _UNITS.get(name)
        if present is not None and present.origin != origin:
            raise UsageError(f"unit {name!r} is registered twice: by {present.origin} and by {origin}; rename one")
        _UNITS[name] = UnitSpec(
            name=name,
            cls=cls,
            kind=kind,
            paper=paper,
            year=year,
            summary=summary,
            warm_start=warm_start,
            fusion=fusion,
            replaces=replaces,
            default_where=default_where,
            placement=placement,
            train_eval=train_eval,
            variants=tuple(MappingProxyType(dict(v)) for v in variants),
            no_weight_decay=frozenset(no_weight_decay),
            constant_weight=constant_weight,
            gradient=gradient,
            onnx=onnx,
            origin=origin,
        )
        return cls

    return add


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
