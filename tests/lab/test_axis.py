"""What varies between the rows of a comparison, and the lab's note of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convswap.errors import StoreError, UsageError
from convswap.lab import Axis, Trial
from convswap.lab.axis import AXES_FILE, note_axis, read_axes
from convswap.train import Recipe

SHORT, LONG, SLOW = (Recipe(epochs=1).as_dict(), Recipe(epochs=9).as_dict(), Recipe(learning_rate=0.01).as_dict())


def trial(recipe: dict[str, Any], seed: int = 0, unit: str = "conv") -> Trial:
    return Trial(model="m", data="digits", data_fingerprint="f", recipe=recipe, seed=seed, unit=unit)


def test_each_trial_is_varied_before_the_next_one() -> None:
    axis = Axis("recipe", {"short": SHORT, "long": LONG})
    varied = axis.vary([trial(SLOW, 0), trial(SLOW, 1)])
    assert [(t.seed, t.recipe["epochs"]) for t in varied] == [(0, 1), (0, 9), (1, 1), (1, 9)]
    assert [axis.variant_of(t) for t in varied] == ["short", "long"] * 2
    assert axis.variant_of(trial(SLOW)) is None
    assert axis.baseline == "short"
    assert varied[0].id == trial(SHORT).id, "the axis is no part of a trial's description"


@pytest.mark.parametrize(
    ("name", "recipes", "message"),
    [
        ("unit", {"a": SHORT, "b": LONG}, "'unit'"),
        ("recipe", {"a": SHORT}, "at least two variants"),
        ("recipe", {}, "none"),
        ("recipe", {"a": SHORT, "b": dict(SHORT)}, "'a' and 'b' are the same recipe"),
    ],
)
def test_bad_axes_are_refused(name: str, recipes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Axis(name, recipes)


def test_a_lab_keeps_axes_apart_and_joins_one_that_grows(tmp_path: Path) -> None:
    assert read_axes(tmp_path) == []
    note_axis(tmp_path, Axis("recipe", {"short": SHORT, "long": LONG}))
    note_axis(tmp_path, Axis("learning_rate", {"0.2": SHORT, "0.01": SLOW}))
    note_axis(tmp_path, Axis("recipe", {"short": SHORT, "slow": SLOW}))
    note_axis(tmp_path, Axis("recipe", {"long": LONG, "slow": SLOW}))
    found = read_axes(tmp_path)
    assert [(axis.name, list(axis.recipes)) for axis in found] == [
        ("learning_rate", ["0.2", "0.01"]),
        ("recipe", ["short", "slow", "long"]),
        ("recipe", ["long", "slow"]),
    ]
    assert found[1].recipes["long"] == LONG


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"axes": [{"axis": "recipe"}]}', '{"axes": [{"axis": "unit", "recipes": []}]}']
)
def test_a_damaged_note_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / AXES_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(StoreError, match=r"axes\.json is damaged.*delete it"):
        read_axes(tmp_path)
