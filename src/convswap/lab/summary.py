"""From trials to the rows of a comparison: means, intervals, and each variant against the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..measure.statistics import Interval, mean_interval
from .axis import Axis
from .decide import MARGIN, compare_rows
from .grouping import Group, group_trials
from .predictions import PredictionFiles
from .robustness.files import RobustnessFiles
from .robustness.summary import add_robustness
from .store import StoredTrial
from .trial import ENOUGH_SEEDS

_TIMED = ("latency_ms", "latency_fused_ms", "parameters_fused", "macs_fused", "cost_fused")

Row = dict[str, Any]


def summarize(
    trials: Iterable[StoredTrial],
    latency: Mapping[str, Mapping[str, Any]] | None = None,
    robustness: RobustnessFiles | None = None,
    *,
    axes: Sequence[Axis] = (),
    margin: float = MARGIN,
    predictions: PredictionFiles | None = None,
) -> list[Row]:
    """One row per variant of each comparison, in the order of the trials.

    Trials are put together, and compared with the baseline, only if everything else about them is equal: data, recipe,
    starting weights, version. Along the axis of units, a variant is a unit with its options and places, and the
    baseline is `conv`. Along an axis of recipes, it is a recipe, and the baseline is the axis's first one. If a model
    was trained under several settings, its name in the rows says which.

    Args:
        trials: the store's rows. Unfinished ones count only as `failed`.
        latency: the measured latencies, by the id of any trial of a row, see `timing.measure_lab`.
        robustness: the measured robustness of the trials' networks, see `robustness.measure_robustness`.
        axes: what varies beside the units, see `axis.read_axes`.
        margin: the largest difference of accuracy, as a fraction, that does not matter.
        predictions: the networks' predictions, for the interval over new images.

    Returns:
        Dictionaries with these keys:
        - `model` (and what distinguishes the comparison), `axis`, `variant`, `is_baseline`, `unit`, `options`, `where`,
          `trial_ids` and `accuracies` of the finished trials by seed, `seeds`, `n_seeds`, `failed`;
        - `mean`, `low`, `high`, `sd`: of the accuracies, None where they do not say;
        - `difference`, `diff_low`, `diff_high`, `probability_better`: against the baseline; `p_value` and `p_holm`
          (corrected for the variants of the comparison) only between two sides of at least three seeds;
        - `tests`: None, or between such sides the further statistics: `welch_p`, `bootstrap_low`, `bootstrap_high`,
          `bootstrap_p`, `probability_low`, `probability_high`, `meaningful`, `stochastic_order` (eps),
          `p_benjamini_hochberg`, `margin`, `p_equal`, `p_equal_holm`, `seeds_needed`, `comparisons`, and `new_images`
          (None, or `low`, `high` and `images`);
        - `ranked`: at least three finished seeds; `rank`: among these, 1 is the best, equal means share a rank;
        - `parameters`, `macs`: as trained; `parameters_fused`, `macs_fused`: of the fused network, None where it was
          not fused; `cost`, `cost_fused`: the cost vectors (`Cost.as_dict()`), None where there are none;
          `replaced` (the plan of the swap), `latency_ms`, `latency_fused_ms`;
        - `robustness`: None, or its conditions, `scores` over the measured trials' networks (each with `mean`, `low`,
          `high`, and against the baseline from three seeds on the keys above), accuracy by condition in `conditions`,
          and below three seeds in `paired` the differences of two networks over the same images.

    Raises:
        StoreError: a file of `robustness` or `predictions` is damaged.
    """
    rows: list[Row] = []
    for group in group_trials(trials, axes):
        new = [_row(group, variant, members, latency or {}) for variant, members in group.variants]
        compare_rows(new, margin, predictions)
        _rank(new)
        if robustness is not None:
            add_robustness(new, robustness, ENOUGH_SEEDS)
        rows += new
    return rows


def _row(group: Group, variant: str, members: Sequence[StoredTrial], latency: Mapping[str, Mapping[str, Any]]) -> Row:
    trial = members[0].trial
    finished = [(stored, stored.result) for stored in members if stored.result is not None]
    first = finished[0][1] if finished else {}
    accuracies = [result["test_accuracy"] for _, result in finished]
    spread: Interval | None = mean_interval(accuracies) if accuracies else None
    timed: Mapping[str, Any] = next((latency[s.id] for s in members if s.id in latency), {})
    return {
        "model": group.name,
        "axis": group.axis,
        "variant": variant,
        "is_baseline": variant == group.baseline,
        "unit": trial.unit,
        "options": trial.unit_options,
        "where": trial.where,
        "n_seeds": len(finished),
        "seeds": [stored.trial.seed for stored, _ in finished],
        "trial_ids": [stored.id for stored, _ in finished],
        "accuracies": accuracies,
        "failed": sum(stored.state == "failed" for stored in members),
        **{key: None if spread is None else getattr(spread, key) for key in ("mean", "low", "high", "sd")},
        "parameters": first.get("parameters"),
        "macs": first.get("macs"),
        "cost": first.get("cost"),
        "replaced": first.get("plan"),
        **{key: timed.get(key) for key in _TIMED},
        "difference": None,
        "diff_low": None,
        "diff_high": None,
        "p_value": None,
        "p_holm": None,
        "probability_better": None,
        "tests": None,
        "ranked": len(finished) >= ENOUGH_SEEDS,
        "rank": None,
        "robustness": None,
    }


def _rank(rows: Sequence[Row]) -> None:
    means = [row["mean"] for row in rows if row["ranked"]]
    for row in rows:
        if row["ranked"]:
            row["rank"] = 1 + sum(mean > row["mean"] for mean in means)
