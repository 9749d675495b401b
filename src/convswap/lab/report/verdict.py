"""One sentence that says what the numbers support, and no more."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..trial import ENOUGH_SEEDS
from . import text
from .view import RowView, by_model

LEVEL = 0.05


def verdict(rows: Sequence[RowView]) -> list[tuple[str, str]]:
    """For each model, its name and the units that are better than, worse than, or indistinguishable from, the baseline.

    The permutation test's Holm-corrected p-value decides, at 95 %.
    """
    return [(model, _of_model(group)) for model, group in by_model(rows).items()]


def smallest_p(n: int, baseline_n: int, comparisons: int = 1) -> float:
    """The smallest corrected p-value that so many seeds can give, however far apart they lie.

    >>> round(smallest_p(3, 3), 3), round(smallest_p(5, 5), 3)
    (0.1, 0.008)
    """
    # With equal group sizes every regrouping has a mirror image with the same absolute difference.
    mirrored = 2 if n == baseline_n else 1
    return min(1.0, comparisons * mirrored / math.comb(n + baseline_n, n))


def seeds_needed(comparisons: int) -> int:
    """The fewest seeds per unit with which a clear difference can reach 95 %."""
    return next(n for n in range(ENOUGH_SEEDS, 100) if smallest_p(n, n, comparisons) <= LEVEL)


def _of_model(rows: Sequence[RowView]) -> str:
    baseline = next((row for row in rows if row.is_baseline), None)
    others = [row for row in rows if row is not baseline]
    if baseline is None:
        return "There is no conv among the units, so there is nothing to compare with."
    if not others:
        return f"Only conv was trained: {_mean(baseline)}."
    if not baseline.n:
        return "No conv trial finished, so there is nothing to compare with."
    compared = [row for row in others if row.ranked and row.p_holm is not None]
    if not baseline.ranked or not compared:
        return (
            f"Too few seeds to say: a comparison needs at least {ENOUGH_SEEDS} finished seeds of conv and of a unit, "
            f"and {seeds_needed(len(others))} to reach 95 %."
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
    hopeless = [row for row in rest if smallest_p(row.n, baseline.n, k) > LEVEL]
    same = [row for row in rest if row not in hopeless]
    corrected = " after Holm's correction" if k > 1 else ""
    sentences = []
    if better:
        sentences.append(f"Better than conv at 95 %{corrected}: {_list([_with_difference(row) for row in better])}.")
    if worse:
        sentences.append(f"Worse than conv at 95 %{corrected}: {_list([_with_difference(row) for row in worse])}.")
    if same:
        sentences.append(
            f"Indistinguishable from conv at 95 %{corrected}: {_list([_with_difference(row) for row in same])}."
        )
    if hopeless:
        lowest = min(smallest_p(row.n, baseline.n, k) for row in hopeless)
        seeds = f"{min(row.n for row in hopeless)} seeds against {baseline.n}"
        several = f" after correcting for {k} comparisons" if k > 1 else ""
        sentences.append(
            f"Too few seeds to say: with {seeds} even the clearest difference has p = {text.p_value(lowest)}{several}; "
            f"{seeds_needed(k)} seeds each could reach 95 %. "
            f"So far {_mean(baseline)}; {_list([_with_difference(row) for row in hopeless])}."
        )
    return sentences


def _mean(row: RowView) -> str:
    return f"{row.label} {text.mean_with_interval(row.mean, row.low, row.high)} %"


def _with_difference(row: RowView) -> str:
    # Without Welch's interval, which is not corrected for several units and would seem to contradict the sentence.
    return f"{row.label} ({text.points(row.difference)} points)"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
