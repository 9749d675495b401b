"""The statistics of a comparison's rows: each variant against the baseline of its group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..measure.statistics import (
    almost_stochastic_order,
    benjamini_hochberg,
    bootstrap_interval,
    bootstrap_p_value,
    compare_to_baseline,
    equivalence,
    holm,
    interval_for_new_images,
    seeds_needed,
    smallest_p_value,
    superiority,
    welch,
)
from .predictions import PredictionFiles
from .trial import ENOUGH_SEEDS

Row = dict[str, Any]

MARGIN = 0.005
"""Half a point of accuracy: a smaller difference does not matter, unless `--margin` says otherwise."""
LEVEL, POWER = 0.05, 0.8
_MOST_SEEDS = 1000
"""Beyond this many seeds the sentence is "more than", since nobody runs them."""


def check_margin(points: float) -> float:
    """A margin in points as a fraction.

    Raises:
        UsageError: it is not above 0 and below 100.
    """
    if not (math.isfinite(points) and 0 < points < 100):
        raise UsageError(f"--margin {points!r} is not allowed; give points of accuracy above 0, such as 0.5")
    return points / 100


def compare_rows(rows: Sequence[Row], margin: float, predictions: PredictionFiles | None = None) -> None:
    """Fill in the comparison with the baseline for the rows of one group, see `summary.summarize`."""
    baseline = next((row for row in rows if row["is_baseline"]), None)
    if baseline is None or not baseline["accuracies"]:
        return
    others = [row for row in rows if row is not baseline and row["accuracies"]]
    tested = [row for row in others if row["ranked"] and baseline["ranked"]]
    for row in others:
        found = compare_to_baseline(row["accuracies"], baseline["accuracies"])
        row["difference"], row["diff_low"], row["diff_high"] = found.difference, found.low, found.high
        if row in tested:
            row["probability_better"], row["p_value"] = found.probability_better, found.p_value
    for row, corrected in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["p_holm"] = corrected
    for row in tested:
        row["tests"] = _tests(row["accuracies"], baseline["accuracies"], margin, len(tested))
        row["tests"]["new_images"] = _new_images(row, baseline, predictions)
    _correct(tested)


def _tests(values: list[float], baseline: list[float], margin: float, comparisons: int) -> Row:
    order, equal = superiority(values, baseline), equivalence(values, baseline, margin)
    low, high = bootstrap_interval(values, baseline)
    return {
        "comparisons": comparisons,
        "welch_p": welch(values, baseline).p_value,
        "bootstrap_low": low,
        "bootstrap_high": high,
        "bootstrap_p": bootstrap_p_value(values, baseline),
        "probability_low": order.low,
        "probability_high": order.high,
        "meaningful": order.meaningful,
        "stochastic_order": almost_stochastic_order(values, baseline, comparisons=comparisons),
        "margin": margin,
        "p_equal": equal.p_value,
        "seeds_needed": _seeds_needed(values, baseline, margin, comparisons),
    }


def _correct(tested: Sequence[Row]) -> None:
    """Corrections that need the p-values of all rows."""
    for row, p in zip(tested, benjamini_hochberg([row["p_value"] for row in tested]), strict=True):
        row["tests"]["p_benjamini_hochberg"] = p
    equal = [row["tests"] for row in tested if row["tests"]["p_equal"] is not None]
    for tests, p in zip(equal, holm([tests["p_equal"] for tests in equal]), strict=True):
        tests["p_equal_holm"] = p
    for row in tested:
        row["tests"].setdefault("p_equal_holm", None)


def seeds_to_reach(comparisons: int) -> int:
    """The fewest seeds per variant with which a clear difference can reach 95 % after Holm's correction."""
    return next(n for n in range(ENOUGH_SEEDS, _MOST_SEEDS) if smallest_p_value(n, n, comparisons) <= LEVEL)


def _seeds_needed(values: list[float], baseline: list[float], margin: float, comparisons: int) -> int | None:
    """Seeds per side that would show a difference of the margin, with the spread seen. None without a spread.

    The level is divided by the comparisons, which is what Holm's correction asks of the clearest one.
    """
    sd = math.sqrt((np.var(values, ddof=1) + np.var(baseline, ddof=1)) / 2)
    if sd <= 1e-12:
        return None
    needed = _MOST_SEEDS + 1
    if sd / margin < math.sqrt(_MOST_SEEDS):
        needed = seeds_needed(margin, sd, power=POWER, level=LEVEL / comparisons)
    return max(needed, seeds_to_reach(comparisons))


def _new_images(row: Row, baseline: Row, predictions: PredictionFiles | None) -> Mapping[str, Any] | None:
    """The interval over seeds and images, None unless the predictions of every trial on both sides were kept."""
    if predictions is None:
        return None
    tables = [[predictions.correct(id) for id in side["trial_ids"]] for side in (row, baseline)]
    kept = [[one for one in side if one is not None] for side in tables]
    if len({len(one) for side in kept for one in side}) != 1 or [len(s) for s in kept] != [len(s) for s in tables]:
        return None
    found = interval_for_new_images(np.stack(kept[0]), np.stack(kept[1]))
    return {"low": found.low, "high": found.high, "images": found.images}
