"""Cost vectors as a table: operations by kind, bits of weights, data written and moved, each compared with conv's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import text
from .view import RowView, by_model

Vector = Mapping[str, Any]

_OTHER = ("additions", "multiplications", "comparisons", "special", "bitwise", "fft")


@dataclass(frozen=True)
class _Column:
    heading: str
    value: Callable[[Vector], int]
    show: Callable[[float], str]
    always: bool = True


_COLUMNS = (
    _Column("float MACs", lambda v: v["macs_float"], text.short_count),
    _Column("int8 MACs", lambda v: v["macs_int8"], text.short_count, always=False),
    _Column("binary MACs", lambda v: v["macs_binary"], text.short_count, always=False),
    _Column("other operations", lambda v: sum(v[name] for name in _OTHER), text.short_count),
    _Column("weights, bytes", lambda v: v["parameters"]["bits"] // 8, text.short_count),
    _Column("activations", lambda v: v["activations"], text.short_count),
    _Column("bytes moved", lambda v: v["bytes_moved"], text.short_count),
)


@dataclass(frozen=True)
class Costs:
    """A table: headings, and the cells of each row. A cell is a number and, if it differs from conv's, the ratio."""

    headings: list[str]
    lines: list[tuple[RowView, list[tuple[str, str]]]]


def table(rows: Sequence[RowView], *, trained: bool = False) -> Costs | None:
    """The vectors of the networks that run in the end, or as trained where those differ. None if there are none.

    Kinds of products that no network uses get no column.
    """
    vectors = {row.key: vector for row in rows if (vector := row.cost_trained if trained else row.cost) is not None}
    if not vectors:
        return None
    columns = [c for c in _COLUMNS if c.always or any(c.value(vector) for vector in vectors.values())]
    lines = []
    for group in by_model(rows).values():
        baseline = next((vectors.get(row.key) for row in group if row.is_baseline), None)
        for row in group:
            vector = vectors.get(row.key)
            lines.append((row, [_cell(column, vector, baseline) for column in columns]))
    return Costs([column.heading for column in columns], lines)


def _cell(column: _Column, vector: Vector | None, baseline: Vector | None) -> tuple[str, str]:
    if vector is None:
        return text.NONE, ""
    value = column.value(vector)
    ratio = ""
    if baseline is not None and baseline is not vector and (whole := column.value(baseline)) and value != whole:
        ratio = text.ratio(value / whole)
    return column.show(value), ratio
