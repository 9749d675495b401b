"""Summary rows: who is compared with whom, and what too few seeds may not say."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from convswap.lab.store import StoredTrial
from convswap.lab.summary import summarize
from convswap.lab.trial import Trial
from convswap.measure.statistics import compare_to_baseline, holm, mean_interval

SPREAD = {"conv": [0.90, 0.91, 0.92], "circle": [0.93, 0.95, 0.94], "ic": [0.91, 0.92, 0.90]}


def trial(unit: str = "conv", seed: int = 0, **changes: Any) -> Trial:
    values = {"model": "m", "data": "digits", "data_fingerprint": "f", "recipe": {"epochs": 1, "flip": False}}
    return Trial(**{**values, "unit": unit, "seed": seed, **changes})


def finished(accuracy: float, unit: str = "conv", seed: int = 0, **changes: Any) -> StoredTrial:
    described = trial(unit, seed, **changes)
    plan = None if unit == "conv" else {"replacements": [{"path": "a"}], "skipped": []}
    result = {"test_accuracy": accuracy, "parameters": 10, "macs": 20, "plan": plan}
    return StoredTrial(described.id, described, "finished", result, None, 0.0, 1.0)


def failed(unit: str, seed: int) -> StoredTrial:
    described = trial(unit, seed)
    return StoredTrial(described.id, described, "failed", None, "boom", 0.0, 1.0)


def grid(**values: list[float]) -> list[StoredTrial]:
    return [
        finished(accuracy, unit, seed)
        for unit, accuracies in values.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def test_a_full_grid() -> None:
    trials = grid(**SPREAD)
    conv, circle, ic = summarize(trials)
    assert [row["unit"] for row in (conv, circle, ic)] == ["conv", "circle", "ic"]
    assert circle["accuracies"] == SPREAD["circle"]
    assert circle["trial_ids"] == [t.id for t in trials[3:6]]
    spread = mean_interval(SPREAD["circle"])
    assert [circle[key] for key in ("mean", "low", "high", "sd")] == [spread.mean, spread.low, spread.high, spread.sd]
    against = compare_to_baseline(SPREAD["circle"], SPREAD["conv"])
    assert [circle[key] for key in ("difference", "diff_low", "diff_high", "p_value", "probability_better")] == [
        against.difference,
        against.low,
        against.high,
        against.p_value,
        against.probability_better,
    ]
    p_values = [circle["p_value"], ic["p_value"]]
    assert [circle["p_holm"], ic["p_holm"]] == holm(p_values)
    assert circle["p_holm"] == pytest.approx(2 * 2 / math.comb(6, 3))
    assert (circle["parameters"], circle["macs"]) == (10, 20)
    assert circle["replaced"] == {"replacements": [{"path": "a"}], "skipped": []}
    assert conv["replaced"] is None
    assert [row["rank"] for row in (conv, circle, ic)] == [2, 1, 2]
    assert all(row["ranked"] for row in (conv, circle, ic))
    assert conv["difference"] is None
    assert conv["p_value"] is None


def test_seeds_are_in_order_however_they_came() -> None:
    (row,) = summarize(list(reversed(grid(conv=[0.1, 0.2, 0.3]))))
    assert (row["seeds"], row["accuracies"]) == ([0, 1, 2], [0.1, 0.2, 0.3])


def test_too_few_seeds_are_shown_but_neither_ranked_nor_tested() -> None:
    conv, circle, ic = summarize(grid(conv=[0.9, 0.91, 0.92], circle=[0.99, 0.98], ic=[0.5, 0.6, 0.7]))
    assert (circle["ranked"], circle["rank"], circle["p_value"], circle["p_holm"]) == (False, None, None, None)
    assert circle["difference"] == pytest.approx(0.075)
    assert [conv["rank"], ic["rank"]] == [1, 2]
    assert ic["p_holm"] == ic["p_value"], "a unit that is not tested does not count in the correction"


def test_too_few_seeds_of_the_baseline_test_nobody() -> None:
    _, circle = summarize(grid(conv=[0.9, 0.91], circle=[0.99, 0.98, 0.97]))
    assert (circle["ranked"], circle["p_value"]) == (True, None)


def test_one_seed_has_no_interval() -> None:
    (row,) = summarize(grid(conv=[0.9]))
    assert (row["mean"], row["low"], row["high"], row["sd"]) == (0.9, None, None, None)


def test_failed_trials_are_counted() -> None:
    rows = summarize([*grid(conv=[0.9, 0.91, 0.92]), failed("circle", 0), failed("circle", 1), failed("conv", 3)])
    assert [(row["unit"], row["n_seeds"], row["failed"]) for row in rows] == [("conv", 3, 1), ("circle", 0, 2)]
    assert rows[1]["mean"] is None
    assert rows[1]["accuracies"] == []
    assert not rows[1]["ranked"]


def test_without_a_baseline_nothing_is_compared() -> None:
    (row,) = summarize(grid(circle=[0.9, 0.91, 0.92]))
    assert (row["difference"], row["p_value"], row["rank"]) == (None, None, 1)


def test_options_and_placements_are_rows_of_their_own_with_one_baseline() -> None:
    trials = grid(conv=[0.9, 0.91, 0.92])
    for extra in ({"where": "3x3"}, {"unit_options": {"radius": "learnable"}}, {}):
        trials += [finished(0.93 + seed / 100, "circle", seed, **extra) for seed in range(3)]
    conv, *others = summarize(trials)
    assert conv["n_seeds"] == 3
    assert [(row["options"], row["where"]) for row in others] == [
        ({}, "3x3"),
        ({"radius": "learnable"}, None),
        ({}, None),
    ]
    assert [row["p_holm"] for row in others] == pytest.approx([0.3, 0.3, 0.3]), "three comparisons of p = 0.1"


def test_a_baseline_serves_its_own_model_only() -> None:
    trials = grid(**SPREAD) + [finished(0.5 + seed / 10, "circle", seed, model="other") for seed in range(3)]
    rows = summarize(trials)
    assert [row["model"] for row in rows] == ["m", "m", "m", "other"]
    assert rows[3]["difference"] is None
    assert rows[1]["p_holm"] == pytest.approx(0.2)


def test_different_recipes_are_never_put_together_and_say_so() -> None:
    long = {"recipe": {"epochs": 9, "flip": False}}
    trials = grid(conv=[0.9, 0.91, 0.92]) + [finished(0.99, "conv", seed, **long) for seed in range(3)]
    rows = summarize(trials)
    assert [row["model"] for row in rows] == ["m (epochs=1)", "m (epochs=9)"]
    assert [row["n_seeds"] for row in rows] == [3, 3]


def test_latency_is_found_by_any_trial_of_the_row() -> None:
    trials = grid(conv=[0.9, 0.91], circle=[0.9, 0.91])
    latency = {trials[3].id: {"latency_ms": {"median_ms": 2.0}, "latency_fused_ms": 1.0}}
    conv, circle = summarize(trials, latency)
    assert (conv["latency_ms"], conv["latency_fused_ms"]) == (None, None)
    assert (circle["latency_ms"], circle["latency_fused_ms"]) == ({"median_ms": 2.0}, 1.0)


def test_nothing_gives_nothing() -> None:
    assert summarize([]) == []


# Of each field of a trial another value, and whether trials that differ in it may be put together or compared.
APART: dict[str, Any] = {
    "model": "other",
    "model_arguments": {"width": 2},
    "data": "cifar10",
    "data_fingerprint": "g",
    "image_size": 64,
    "recipe": {"epochs": 9, "flip": False},
    "weights": {"file": "w.safetensors", "sha256": "0" * 64},
    "pretrained": True,
    "normalization": {"mean": [0.5], "std": [0.5]},
    "network": {"structure": "1" * 64, "source": "2" * 64},
    "parent": {"file": "m.safetensors", "run": "0f3a5d6c7b8e9a01", "sha256": "0" * 64},
    "teacher": {"kind": "run", "file": "m.safetensors", "model": "n", "sha256": "0" * 64},
    "data_options": {"eval_split": "val"},
    "version": "0.0.1",
}
TOGETHER = {"seed", "unit", "unit_options", "where", "start"}


def test_every_field_of_a_trial_is_tried_here() -> None:
    assert {field.name for field in fields(Trial)} == APART.keys() | TOGETHER


@pytest.mark.parametrize("name", APART)
def test_trials_of_other_conditions_are_neither_put_together_nor_compared(name: str) -> None:
    trials = grid(conv=[0.90, 0.91, 0.92])
    trials += [
        finished(0.5 + seed / 100, unit, seed, **{name: APART[name]})
        for unit in ("conv", "circle")
        for seed in range(3)
    ]
    rows = summarize(trials)
    assert [(row["unit"], row["n_seeds"]) for row in rows] == [("conv", 3), ("conv", 3), ("circle", 3)]
    assert rows[2]["difference"] == pytest.approx(0.0), "compared with the baseline of its own conditions"
    assert len({row["model"] for row in rows}) == 2, "the names say that the conditions differ"
