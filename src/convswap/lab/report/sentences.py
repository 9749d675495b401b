"""One sentence per variant that says what the numbers support, for a person who does no statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...measure.statistics import MEANINGFUL, smallest_p_value
from ..decide import LEVEL, POWER, seeds_to_reach
from ..trial import ENOUGH_SEEDS
from . import text
from .view import RowView, by_model

_MOST_SEEDS = 1000


def sentences(rows: Sequence[RowView]) -> list[tuple[RowView, str]]:
    """Each row that was tested against its baseline, with its sentence, in the order of the rows."""
    found = []
    for group in by_model(rows).values():
        baseline = next((row for row in group if row.is_baseline), None)
        if baseline is not None:
            found += [(row, _sentence(row, baseline, row.tests)) for row in group if row.tests is not None]
    return found


def _sentence(row: RowView, baseline: RowView, tests: Mapping[str, Any]) -> str:
    name, other, k = row.label, baseline.label, tests["comparisons"]
    margin = f"{100 * tests['margin']:.2g} points"
    equal = tests["p_equal_holm"] is not None and tests["p_equal_holm"] <= LEVEL
    equality = f"equivalence test, {text.p_is(tests['p_equal_holm'])}{_corrected(k)}"
    seeds = f"{row.n} seeds" if row.n == baseline.n else f"{row.n} seeds against {baseline.n}"
    evidence = f"{_interval(row)}; {text.p_is(row.p_holm)}{_corrected(k)}, {seeds}"
    if row.p_holm is not None and row.p_holm <= LEVEL:
        kind = "better" if (row.difference or 0) > 0 else "worse"
        by = text.points(abs(row.difference or 0)).lstrip("+")
        small = f" The difference is below {margin} all the same ({equality})." if equal else ""
        return f"{name} is {kind} than {other} by {by} points ({evidence}).{small} {_often(row, other)}{_images(tests)}"
    if equal:
        return f"{name} equals {other} within {margin} ({equality}; difference {text.points(row.difference)}, {seeds})."
    between = f"between {name} and {other} ({text.points(row.difference)} points, {evidence})"
    if smallest_p_value(row.n, baseline.n, k) > LEVEL:
        return (
            f"Too few seeds to see a difference {between}: no difference, however clear, gives p below "
            f"{text.p_value(smallest_p_value(row.n, baseline.n, k))}; {seeds_to_reach(k)} seeds each could."
        )
    return f"No evidence of a difference {between}{_needed(tests, margin)}."


def _corrected(comparisons: int) -> str:
    return " after Holm" if comparisons > 1 else ""


def _interval(row: RowView) -> str:
    if row.diff_low is None or row.diff_high is None:
        return "no interval: the values do not vary"
    # Welch's interval is not corrected for several variants, and may seem to contradict the corrected p-value.
    return f"95 % interval {text.points(row.diff_low)} to {text.points(row.diff_high)} by itself"


def _often(row: RowView, other: str) -> str:
    """The share of runs that beat the baseline's, with the declared rule for an improvement."""
    assert row.tests is not None
    low, high = row.tests["probability_low"], row.tests["probability_high"]
    often = f"A run of {row.label} beats one of {other} with probability {row.probability_better:.2f}"
    rule = ""
    if (row.difference or 0) > 0:
        rule = ": a meaningful gain" if row.tests["meaningful"] else f": below {MEANINGFUL}, or not surely above 0.5"
    return f"{often} ({low:.2f} to {high:.2f}){rule}."


def _images(tests: Mapping[str, Any]) -> str:
    found = tests["new_images"]
    if found is None:
        return ""
    crosses = found["low"] <= 0 <= found["high"]
    doubt = ", so it may not hold there" if crosses else ""
    return f" For other images of this kind: {text.points(found['low'])} to {text.points(found['high'])}{doubt}."


def _needed(tests: Mapping[str, Any], margin: str) -> str:
    n = tests["seeds_needed"]
    if n is None:
        return ""
    number = f"about {n}" if n <= _MOST_SEEDS else f"more than {_MOST_SEEDS}"
    return f"; with this spread, {number} seeds each would show {margin} with probability {POWER}"


def untested(rows: Sequence[RowView]) -> str:
    """The rows with too few finished seeds to be tested, as one line, or an empty text."""
    names = [
        row.label if len(by_model(rows)) == 1 else f"{row.label} in {row.model}"
        for row in rows
        if not row.is_baseline and row.tests is None and row.difference is not None
    ]
    if not names:
        return ""
    return f"Not tested, for want of {ENOUGH_SEEDS} finished seeds on both sides: {', '.join(names)}."
