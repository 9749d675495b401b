"""The same units in several models or settings: mean ranks and Friedman's test, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from ...measure.statistics import compare_ranks
from . import text
from .view import RowView, by_model


def ranks_over_models(rows: Sequence[RowView]) -> str:
    """Mean ranks over the comparisons of the same variants, all ranked. Empty below two of them or three variants."""
    groups = [group for group in by_model(rows).values() if all(row.ranked for row in group)]
    names = [{row.label for row in group} for group in groups]
    alike = [group for group, own in zip(groups, names, strict=True) if own == names[0]]
    if len(alike) < 2 or len(names[0]) < 3:
        return ""
    values: dict[str, list[float]] = {}
    for group in alike:
        for row in group:
            values.setdefault(row.label, []).append(row.mean or 0.0)
    found = compare_ranks(values)
    ranks = ", ".join(f"{name} {rank:.2g}" for name, rank in sorted(found.mean_ranks.items(), key=lambda item: item[1]))
    p_value = "" if found.p_value is None else f"; Friedman's test of equal ranks: p = {text.p_value(found.p_value)}"
    return f"Mean rank over {found.blocks} comparisons: {ranks}{p_value}."
