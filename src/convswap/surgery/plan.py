"""Plans: what a surgery would do, as data that prints as a table and serialises to JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Replacement:
    """One convolution and the unit that would stand in its place.

    Attributes:
        path: its first module path; `other_paths` are further references to the same object.
        geometry: channels, kernel, stride and so on, as text.
        unit: registry name.
        start: `"exact"`, `"approximate"` or `"none"` for a warm start (how much of the function is kept),
            `"fresh"` when the unit starts as for training from scratch.
        parameters_before, parameters_after: numbers of parameters.
        macs_before, macs_after: multiply-accumulates per image, None without an example input.
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


@dataclass(frozen=True)
class Skip:
    """A selected place that stays as it is, and why."""

    path: str
    reason: str


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A plain monospaced table; columns named in `right` are right-aligned."""
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

    def as_dict(self) -> dict[str, Any]:
        """The report as plain lists and dictionaries."""
        return asdict(self)

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        title = f"swap to {self.unit}" + (f" ({options})" if options else "") + f" where {self.where}"
        rows = [
            [
                r.path + (f" (+{len(r.other_paths)} references)" if r.other_paths else ""),
                r.geometry,
                _number(r.parameters_before),
                _number(r.parameters_after),
                _number(r.macs_before),
                _number(r.macs_after),
                r.start,
            ]
            for r in self.replacements
        ]
        sums = [self._total(name) for name in ("parameters_before", "parameters_after", "macs_before", "macs_after")]
        rows.append([f"total: {len(self.replacements)} replaced", "", *map(_number, sums), ""])
        header = ["module", "geometry", "parameters", "after", "MACs", "after", "start"]
        lines = [title, text_table(header, rows, right=(2, 3, 4, 5))]
        if self.skipped:
            lines += [
                f"skipped: {len(self.skipped)}",
                *(f"  {s.path or '(the model)'}: {s.reason}" for s in self.skipped),
            ]
        if self.functional_convolutions:
            lines.append(
                f"note: {self.functional_convolutions} convolutions a forward pass are computed by function calls, "
                "not by modules; no swap can reach them"
            )
        return "\n".join(lines)

    def _total(self, name: str) -> int | None:
        values = [getattr(r, name) for r in self.replacements]
        return None if any(v is None for v in values) else sum(values)
