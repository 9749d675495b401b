"""One sentence that says what the numbers support, and no more."""

from __future__ import annotations

from collections.abc import Sequence

from ...measure.statistics import smallest_p_value
from ..decide import LEVEL, seeds_to_reach
from ..trial import ENOUGH_SEEDS
from . import text
from .view import RowView, by_model


def verdict(rows: Sequence[RowView]) -> list[tuple[str, str]]:
    """For each model, its name and the variants that are better or worse than the baseline, equal, or neither.

    The permutation test's Holm-corrected p-value decides, at 95 %, and the equivalence test's says what is equal.
    """
    return [(model, _of_model(group)) for model, group in by_model(rows).items()]


def _of_model(rows: Sequence[RowView]) -> str:
    baseline = next((row for row in rows if row.is_baseline), None)
    others = [row for row in rows if row is not baseline]
    if baseline is None:
        return "There is no baseline among the variants (conv among units), so there is nothing to compare with."
    if not others:
        return f"Only {baseline.label} was trained: {_mean(baseline)}."
    if not baseline.n:
        return f"No {baseline.label} trial finished, so there is nothing to compare with."
    compared = [row for row in others if row.ranked and row.p_holm is not None]
    if not baseline.ranked or not compared:
        return (
            f"Too few seeds to say: a comparison needs at least {ENOUGH_SEEDS} finished seeds of {baseline.label} "
            f"and of another, and {seeds_to_reach(len(others))} to reach 95 %."
        )
    sentences = _decided(baseline, compared)
    left_out = [row.label for row in others if row not in compared]
    if left_out:
        sentences.append(f"Not compared, for lack of finished seeds: {_list(left_out)}.")
    return " ".join(sentences)


def _decided(baseline: RowView, compared: Sequence[RowView]) -> list[str]:
    significant = [row for row in compared if row.p_holm is not None and row.p_holm <= LEVEL]
    better = [row for row in significant if (row.difference or 0) > 0]
    worse = [row for row in significant if (row.difference or 0) < 0]
    rest = [row for row in compared if row not in better and row not in worse]
    k = len(compared)
    equal = [row for row in rest if row.tests is not None and (row.tests["p_equal_holm"] or 1.0) <= LEVEL]
    rest = [row for row in rest if row not in equal]
    hopeless = [row for row in rest if smallest_p_value(row.n, baseline.n, k) > LEVEL]
    same = [row for row in rest if row not in hopeless]
    name = baseline.label
    corrected = " after Holm's correction" if k > 1 else ""
    sentences = []
    if better:
        sentences.append(f"Better than {name} at 95 %{corrected}: {_list([_with_difference(row) for row in better])}.")
    if worse:
        sentences.append(f"Worse than {name} at 95 %{corrected}: {_list([_with_difference(row) for row in worse])}.")
    if equal:
        margin = f"{100 * _margin(equal[0]):.2g} points"
        sentences.append(
            f"Equal to {name} within {margin}{corrected}: {_list([_with_difference(row) for row in equal])}."
        )
    if same:
        sentences.append(
            f"Indistinguishable from {name} at 95 %{corrected}: {_list([_with_difference(row) for row in same])}."
        )
    if hopeless:
        lowest = min(smallest_p_value(row.n, baseline.n, k) for row in hopeless)
        seeds = f"{min(row.n for row in hopeless)} seeds against {baseline.n}"
        several = f" after correcting for {k} comparisons" if k > 1 else ""
        sentences.append(
            f"Too few seeds to say: with {seeds} even the clearest difference has {text.p_is(lowest)}{several}; "
            f"{seeds_to_reach(k)} seeds each could reach 95 %. "
            f"So far {_mean(baseline)}; {_list([_with_difference(row) for row in hopeless])}."
        )
    return sentences


def _margin(row: RowView) -> float:
    assert row.tests is not None
    return float(row.tests["margin"])


def _mean(row: RowView) -> str:
    return f"{row.label} {text.mean_with_interval(row.mean, row.low, row.high)} %"


def _with_difference(row: RowView) -> str:
    # Without Welch's interval, which is not corrected for several units and would seem to contradict the sentence.
    return f"{row.label} ({text.points(row.difference)} points)"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
