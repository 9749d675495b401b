"""Plans: what a surgery would do, as data that prints as a table and serialises to JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Replacement:
    """One convolution (or block, or stage) and the unit that would stand in its place.

    Attributes:
        path: its first module path. `other_paths` are further references to the same object.
        geometry: channels, kernel, stride and so on, as text.
        unit: registry name.
        start: `"exact"`, `"approximate"` or `"none"` for a warm start (how much of the function is kept), `"fresh"`
            when the unit starts as for training from scratch.
        parameters_before, parameters_after: numbers of parameters.
        macs_before, macs_after: multiply-accumulates per image, None without an example input.
        site_options: options of the unit that follow from the modules around it.
        absorbed: paths of host modules (a BatchNorm, a ReLU) that the unit takes over and that are removed. Their
            parameters are counted in `parameters_before`.
        place: for a block unit its channels, stride, depth and kind.
        start_error: for an approximate warm start of a weight unit, how far its effective weight is from the
            convolution's: the norm of the difference over the norm of the convolution's weight.
    """

    path: str
    other_paths: tuple[str, ...]
    geometry: str
    unit: str
    start: str
    parameters_before: int
    parameters_after: int
    macs_before: int | None
    macs_after: int | None
    site_options: dict[str, Any] = field(default_factory=dict)
    absorbed: tuple[str, ...] = ()
    place: dict[str, Any] | None = None
    start_error: float | None = None


@dataclass(frozen=True)
class Skip:
    """A selected place that stays as it is, and why."""

    path: str
    reason: str


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A plain monospaced table. The columns named in `right` are right-aligned."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        aligned = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return "  ".join(aligned).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


@dataclass(frozen=True)
class SwapReport:
    """The data of a swap plan, without the model."""

    unit: str
    options: dict[str, Any]
    where: str
    replacements: tuple[Replacement, ...]
    skipped: tuple[Skip, ...]
    functional_convolutions: int | None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The report as plain lists and dictionaries."""
        return asdict(self)

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        title = f"swap to {unit_text(self.unit, self.options)} where {self.where}"
        return plan_text([title], self.replacements, self.skipped, self.notes, self.functional_convolutions)


def unit_text(unit: str, options: Mapping[str, Any]) -> str:
    """A unit with its options.

    >>> unit_text("circle", {"radius": "learnable"})
    "circle (radius='learnable')"
    """
    return f"{unit} ({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else unit


def plan_text(
    title: Sequence[str],
    replacements: Sequence[Replacement],
    skipped: Sequence[Skip],
    notes: Sequence[str],
    functional_convolutions: int | None,
    *,
    units: bool = False,
) -> str:
    """A plan as title, table, and what a reader should know. `units` adds a column with the unit of each place."""
    rows = [
        [
            r.path + (f" (+{len(r.other_paths)} references)" if r.other_paths else ""),
            *([r.unit] if units else []),
            r.geometry,
            _number(r.parameters_before),
            _number(r.parameters_after),
            _number(r.macs_before),
            _number(r.macs_after),
            r.start if r.start_error is None else f"{r.start}, weights {r.start_error:.0%} off",
        ]
        for r in replacements
    ]
    sums = [
        _total(replacements, name) for name in ("parameters_before", "parameters_after", "macs_before", "macs_after")
    ]
    blank = [""] * (2 if units else 1)
    rows.append([f"total: {len(replacements)} replaced", *blank, *map(_number, sums), ""])
    header = ["module", *(["unit"] if units else []), "geometry", "parameters", "after", "MACs", "after", "start"]
    first = 1 + len(blank)
    lines = [*title, text_table(header, rows, right=range(first, first + 4))]
    if skipped:
        lines += [
            f"skipped: {len(skipped)}",
            *(f"  {s.path or '(the model)'}: {s.reason}" for s in skipped),
        ]
    absorbed = [path for r in replacements for path in r.absorbed]
    if absorbed:
        few = ", ".join(absorbed[:6]) + (", ..." if len(absorbed) > 6 else "")
        lines.append(f"absorbed: {len(absorbed)} modules of the host, since the units bring their own: {few}")
    lines += [f"note: {note}" for note in notes]
    if functional_convolutions:
        lines.append(
            f"note: {functional_convolutions} convolutions per forward pass are computed by function calls, "
            "not by modules; no swap can reach them"
        )
    return "\n".join(lines)


def _total(replacements: Sequence[Replacement], name: str) -> int | None:
    values = [getattr(r, name) for r in replacements]
    return None if any(v is None for v in values) else sum(values)
