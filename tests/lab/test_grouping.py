"""Which trials are compared with each other along which axis."""

from __future__ import annotations

from typing import Any

import pytest

from convswap.lab import Axis
from convswap.lab.store import StoredTrial
from convswap.lab.summary import summarize
from convswap.lab.trial import Trial

SHORT, LONG, OTHER = {"epochs": 1}, {"epochs": 9}, {"epochs": 5}
AXIS = Axis("recipe", {"short": SHORT, "long": LONG})


def trials(recipe: dict[str, Any], accuracy: float, unit: str = "conv", **changes: Any) -> list[StoredTrial]:
    found = []
    for seed in range(3):
        described = Trial(
            **{"model": "m", "data": "digits", "data_fingerprint": "f", "recipe": recipe, "seed": seed, "unit": unit}
            | changes
        )
        result = {"test_accuracy": accuracy + seed / 100, "plan": None}
        found.append(StoredTrial(described.id, described, "finished", result, None, 0.0, 1.0))
    return found


def shown(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["model"], row["axis"], row["variant"], row["is_baseline"], row["n_seeds"]) for row in rows]


def test_recipes_are_rows_of_one_comparison_in_the_order_of_the_axis() -> None:
    rows = summarize([*trials(LONG, 0.9), *trials(SHORT, 0.8)], axes=[AXIS])
    assert shown(rows) == [("m", "recipe", "short", True, 3), ("m", "recipe", "long", False, 3)]
    assert rows[1]["difference"] == pytest.approx(0.1)
    assert rows[1]["p_holm"] == pytest.approx(0.1)
    assert rows[0]["difference"] is None


def test_without_the_note_they_are_settings_that_are_not_compared() -> None:
    rows = summarize([*trials(LONG, 0.9), *trials(SHORT, 0.8)])
    assert shown(rows) == [("m (epochs=9)", "unit", "conv", True, 3), ("m (epochs=1)", "unit", "conv", True, 3)]


def test_a_trial_serves_the_units_and_the_recipes() -> None:
    rows = summarize([*trials(SHORT, 0.8), *trials(SHORT, 0.82, "circle"), *trials(LONG, 0.9)], axes=[AXIS])
    assert shown(rows) == [
        ("m", "unit", "conv", True, 3),
        ("m", "unit", "circle", False, 3),
        ("m by recipe", "recipe", "short", True, 3),
        ("m by recipe", "recipe", "long", False, 3),
    ]
    assert [row["difference"] for row in rows] == [None, pytest.approx(0.02), None, pytest.approx(0.1)]
    assert rows[3]["p_holm"] == rows[3]["p_value"], "the units do not count in the correction of the recipes"


def test_each_unit_is_compared_with_its_own_baseline() -> None:
    stored = [t for unit, a in (("conv", 0.8), ("circle", 0.7)) for r in (SHORT, LONG) for t in trials(r, a, unit)]
    rows = [row for row in summarize(stored, axes=[AXIS]) if row["axis"] == "recipe"]
    assert shown(rows) == [
        ("m (unit=conv)", "recipe", "short", True, 3),
        ("m (unit=conv)", "recipe", "long", False, 3),
        ("m (unit=circle)", "recipe", "short", True, 3),
        ("m (unit=circle)", "recipe", "long", False, 3),
    ]
    assert rows[3]["difference"] == pytest.approx(0.0)


def test_trials_of_other_recipes_and_lone_variants_stay_settings() -> None:
    rows = summarize([*trials(SHORT, 0.8), *trials(OTHER, 0.9)], axes=[AXIS])
    assert [row["axis"] for row in rows] == ["unit", "unit"]


def test_another_setting_is_never_compared_along_an_axis() -> None:
    rows = summarize([*trials(SHORT, 0.8), *trials(LONG, 0.9, image_size=64)], axes=[AXIS])
    assert [(row["axis"], row["difference"]) for row in rows] == [("unit", None)] * 2
