"""The statistics of a comparison's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convswap.errors import UsageError
from convswap.lab.decide import check_margin, compare_rows, seeds_to_reach
from convswap.lab.predictions import PREDICTIONS_FILE, PredictionFiles
from convswap.measure import statistics

CONV = [0.90, 0.91, 0.92, 0.905, 0.915]
CIRCLE = [0.93, 0.94, 0.95, 0.935, 0.945]
IC = [0.912, 0.903, 0.919, 0.904, 0.911]


def rows(**accuracies: list[float]) -> list[dict[str, Any]]:
    empty = dict.fromkeys(("difference", "diff_low", "diff_high", "p_value", "p_holm", "probability_better", "tests"))
    return [
        {
            "variant": name,
            "is_baseline": name == "conv",
            "accuracies": values,
            "ranked": len(values) >= 3,
            "trial_ids": [f"{name}{seed}" for seed in range(len(values))],
            **empty,
        }
        for name, values in accuracies.items()
    ]


def test_every_test_is_that_of_the_room_of_statistics() -> None:
    conv, circle, ic = given = rows(conv=CONV, circle=CIRCLE, ic=IC)
    compare_rows(given, 0.01)
    assert conv["tests"] is None
    p_values = [statistics.permutation_p_value(x, CONV) for x in (CIRCLE, IC)]
    assert [circle["p_holm"], ic["p_holm"]] == statistics.holm(p_values)
    equal = [statistics.equivalence(x, CONV, 0.01).p_value for x in (CIRCLE, IC)]
    assert [row["tests"]["p_equal"] for row in (circle, ic)] == equal
    assert [row["tests"]["p_equal_holm"] for row in (circle, ic)] == statistics.holm([p or 0 for p in equal])
    tests, order = ic["tests"], statistics.superiority(IC, CONV)
    assert (tests["probability_low"], tests["probability_high"]) == (order.low, order.high)
    assert tests["welch_p"] == statistics.welch(IC, CONV).p_value
    assert tests["bootstrap_p"] == statistics.bootstrap_p_value(IC, CONV)
    assert (tests["bootstrap_low"], tests["bootstrap_high"]) == statistics.bootstrap_interval(IC, CONV)
    assert tests["stochastic_order"] == statistics.almost_stochastic_order(IC, CONV, comparisons=2)
    found = [circle["tests"]["p_benjamini_hochberg"], tests["p_benjamini_hochberg"]]
    assert found == statistics.benjamini_hochberg(p_values)
    assert (circle["tests"]["meaningful"], tests["meaningful"]) == (True, False)
    assert tests["new_images"] is None


def test_seeds_needed_for_the_margin_with_the_spread_seen() -> None:
    _, circle, ic = given = rows(conv=CONV, circle=CIRCLE, ic=IC)
    compare_rows(given, 0.002)
    sd = float(np.sqrt((np.var(IC, ddof=1) + np.var(CONV, ddof=1)) / 2))
    assert ic["tests"]["seeds_needed"] == statistics.seeds_needed(0.002, sd, level=0.025)
    compare_rows(given, 0.5)
    assert circle["tests"]["seeds_needed"] == seeds_to_reach(2), "fewer could not reach 95 % at all"
    compare_rows(given, 1e-9)
    assert circle["tests"]["seeds_needed"] > 1000, "a number that nobody runs is not computed"


def test_values_that_do_not_vary_say_neither_equality_nor_seeds() -> None:
    given = rows(conv=[0.9] * 4, circle=[0.9] * 4)
    compare_rows(given, 0.005)
    tests = given[1]["tests"]
    assert (tests["p_equal"], tests["p_equal_holm"], tests["seeds_needed"], tests["welch_p"]) == (None,) * 4


@pytest.mark.parametrize("accuracies", [{"circle": CIRCLE}, {"conv": [], "circle": CIRCLE}])
def test_without_a_baseline_nothing_is_compared(accuracies: dict[str, list[float]]) -> None:
    given = rows(**accuracies)
    compare_rows(given, 0.005)
    assert given[-1]["difference"] is None


def test_below_three_seeds_a_difference_is_shown_and_not_tested() -> None:
    given = rows(conv=CONV, circle=CIRCLE[:2])
    compare_rows(given, 0.005)
    assert given[1]["difference"] == pytest.approx(0.025)
    assert (given[1]["p_value"], given[1]["tests"]) == (None, None)


def keep(folder: Path, id: str, correct: np.ndarray) -> None:
    (folder / id).mkdir()
    np.savez_compressed(
        folder / id / PREDICTIONS_FILE, predictions=correct.astype(np.uint8), labels=np.ones(len(correct))
    )


def test_the_interval_for_new_images_needs_every_trial_of_both_sides(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    given = rows(conv=CONV[:3], circle=CIRCLE[:3])
    tables = {name: generator.random((3, 50)) < share for name, share in (("conv", 0.8), ("circle", 0.9))}
    for name, table in tables.items():
        for seed, correct in enumerate(table):
            keep(tmp_path, f"{name}{seed}", correct)
    compare_rows(given, 0.005, PredictionFiles(tmp_path))
    expected = statistics.interval_for_new_images(tables["circle"], tables["conv"])
    assert given[1]["tests"]["new_images"] == {"low": expected.low, "high": expected.high, "images": 50}
    (tmp_path / "conv1" / PREDICTIONS_FILE).unlink()
    compare_rows(given, 0.005, PredictionFiles(tmp_path))
    assert given[1]["tests"]["new_images"] is None


@pytest.mark.parametrize("bad", [0, -1, 100, float("nan"), float("inf")])
def test_a_bad_margin_is_named(bad: float) -> None:
    with pytest.raises(UsageError, match="--margin"):
        check_margin(bad)


def test_a_margin_in_points_is_a_fraction() -> None:
    assert check_margin(0.5) == 0.005
