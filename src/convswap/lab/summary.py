"""From trials to the rows of a comparison: means, intervals, and each unit against `conv`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..measure.statistics import Comparison, Interval, compare_to_baseline, holm, mean_interval
from .robustness.files import RobustnessFiles
from .robustness.summary import add_robustness
from .store import StoredTrial
from .trial import BASELINE, ENOUGH_SEEDS, Trial, canonical_json

_TIMED = ("latency_ms", "latency_fused_ms", "parameters_fused", "macs_fused", "cost_fused")

Row = dict[str, Any]


def summarize(
    trials: Iterable[StoredTrial],
    latency: Mapping[str, Mapping[str, Any]] | None = None,
    robustness: RobustnessFiles | None = None,
) -> list[Row]:
    """One row per (model, unit, options, where), in the order of the trials.

    Trials are put together, and compared with `conv`, only if everything else about them is equal: data, recipe,
    starting weights, version. If a model was trained under several such settings, its name in the rows says which.

    Args:
        trials: the store's rows. Unfinished ones count only as `failed`.
        latency: the measured latencies, by the id of any trial of a row, see `timing.measure_lab`.
        robustness: the measured robustness of the trials' networks, see `robustness.measure_robustness`.

    Returns:
        Dictionaries with these keys:
        - `model`, `unit`, `options`, `where`, `trial_ids` and `accuracies` of the finished trials by seed, `seeds`,
          `n_seeds`, `failed`;
        - `mean`, `low`, `high`, `sd`: of the accuracies, None where they do not say;
        - `difference`, `diff_low`, `diff_high`, `probability_better`: against `conv`; `p_value` and `p_holm`
          (corrected for the units of the model) only between two sides of at least three seeds;
        - `ranked`: at least three finished seeds; `rank`: among these, 1 is the best, equal means share a rank;
        - `parameters`, `macs`: as trained; `parameters_fused`, `macs_fused`: of the fused network, None where it was
          not fused; `cost`, `cost_fused`: the cost vectors (`Cost.as_dict()`), None where there are none;
          `replaced` (the plan of the swap), `latency_ms`, `latency_fused_ms`;
        - `robustness`: None, or its conditions, `scores` over the measured trials' networks (each with `mean`, `low`,
          `high`, and against `conv` from three seeds on the keys above), accuracy by condition in `conditions`, and
          below three seeds in `paired` the differences of two networks over the same images.

    Raises:
        StoreError: a file of `robustness` is damaged.
    """
    groups: dict[tuple[str, str], list[StoredTrial]] = {}
    for stored in trials:
        groups.setdefault((_setting(stored.trial), _surgery(stored.trial)), []).append(stored)
    settings: dict[str, list[list[StoredTrial]]] = {}
    for (setting, _), members in groups.items():
        settings.setdefault(setting, []).append(sorted(members, key=lambda stored: stored.trial.seed))
    names = _names([groups_of[0][0].trial for groups_of in settings.values()])
    rows: list[Row] = []
    for name, groups_of in zip(names, settings.values(), strict=True):
        new = [_row(name, members, latency or {}) for members in groups_of]
        _compare(new)
        _rank(new)
        if robustness is not None:
            add_robustness(new, robustness, ENOUGH_SEEDS)
        rows += new
    return rows


def _setting(trial: Trial) -> str:
    """Everything that must be equal for two trials to be compared."""
    without = ("seed", "unit", "unit_options", "where", "start")
    return canonical_json({key: value for key, value in trial.identity().items() if key not in without})


def _surgery(trial: Trial) -> str:
    return canonical_json([trial.unit, trial.unit_options, trial.where, trial.start])


def _row(name: str, members: Sequence[StoredTrial], latency: Mapping[str, Mapping[str, Any]]) -> Row:
    trial = members[0].trial
    finished = [(stored, stored.result) for stored in members if stored.result is not None]
    first = finished[0][1] if finished else {}
    accuracies = [result["test_accuracy"] for _, result in finished]
    spread: Interval | None = mean_interval(accuracies) if accuracies else None
    timed: Mapping[str, Any] = next((latency[s.id] for s in members if s.id in latency), {})
    return {
        "model": name,
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
        "ranked": len(finished) >= ENOUGH_SEEDS,
        "rank": None,
        "robustness": None,
    }


def _compare(rows: Sequence[Row]) -> None:
    """Fill in the comparison with the baseline for the rows of one setting."""
    baseline = next((row for row in rows if row["unit"] == BASELINE), None)
    if baseline is None or not baseline["accuracies"]:
        return
    others = [row for row in rows if row is not baseline and row["accuracies"]]
    for row in others:
        found: Comparison = compare_to_baseline(row["accuracies"], baseline["accuracies"])
        row["difference"], row["diff_low"], row["diff_high"] = found.difference, found.low, found.high
        if row["ranked"] and baseline["ranked"]:
            row["probability_better"], row["p_value"] = found.probability_better, found.p_value
    tested = [row for row in others if row["p_value"] is not None]
    for row, corrected in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["p_holm"] = corrected


def _rank(rows: Sequence[Row]) -> None:
    means = [row["mean"] for row in rows if row["ranked"]]
    for row in rows:
        if row["ranked"]:
            row["rank"] = 1 + sum(mean > row["mean"] for mean in means)


def _names(trials: Sequence[Trial]) -> list[str]:
    """The models' names. If a model has several settings, parentheses hold the values that distinguish them."""
    flat = [_flat(trial) for trial in trials]
    names = []
    for trial, mine in zip(trials, flat, strict=True):
        peers = [other for other, theirs in zip(flat, trials, strict=True) if theirs.model == trial.model]
        keys = sorted({key for other in peers for key in mine.keys() | other.keys() if mine.get(key) != other.get(key)})
        text = ", ".join(f"{key}={mine.get(key)}" for key in keys)
        names.append(f"{trial.model} ({text})" if text else trial.model)
    return names


def _flat(trial: Trial) -> dict[str, str]:
    """A trial's setting with its inner dictionaries flattened, and values short enough to read."""
    setting: dict[str, Any] = json.loads(_setting(trial))
    inner: dict[str, Any] = {}
    for name in ("recipe", "model_arguments", "network", "data_options"):
        inner |= setting.pop(name, None) or {}
    return {key: str(value)[:12] for key, value in {**setting, **inner}.items()}
