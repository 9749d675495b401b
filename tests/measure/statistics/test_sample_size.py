"""Numbers of seeds: the textbook's table, known values of the t-test, and a simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from convswap.errors import UsageError
from convswap.measure.statistics import noether_pairs, power, seeds_needed

# docs/statistics.md and recipes.md 4.2: runs per side for 0.05, 0.1, 0.2 and 0.3 points.
NORMAL = {0.15: [142, 36, 9, 4], 0.20: [252, 63, 16, 7], 0.30: [566, 142, 36, 16]}
STUDENT = {0.15: [143, 37, 10, 6], 0.20: [253, 64, 17, 9], 0.30: [567, 143, 37, 17]}


@pytest.mark.parametrize("sd", NORMAL)
def test_the_table_of_planning(sd: float) -> None:
    differences = (0.05, 0.1, 0.2, 0.3)
    assert [seeds_needed(d, sd, method="normal") for d in differences] == NORMAL[sd]
    assert [seeds_needed(d, sd) for d in differences] == STUDENT[sd]


# Cohen 1988, table 2.4.1: n per side for power 0.8 at two-sided 0.05.
@pytest.mark.parametrize(("effect", "n"), [(0.2, 393), (0.5, 64), (0.8, 26), (1.0, 17), (1.2, 12), (1.4, 9)])
def test_cohens_table(effect: float, n: int) -> None:
    assert abs(seeds_needed(effect, 1.0) - n) <= 1  # Cohen's own values are approximate
    assert power(seeds_needed(effect, 1.0), effect, 1.0) >= 0.8 > power(seeds_needed(effect, 1.0) - 1, effect, 1.0)


def test_power_is_that_of_simulated_experiments() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.3, 0.2, (20_000, 6)), generator.normal(0, 0.2, (20_000, 6))
    found = float(np.mean(stats.ttest_ind(a, b, axis=1).pvalue < 0.05))
    assert power(6, 0.3, 0.2) == pytest.approx(found, abs=0.015)


def test_a_huge_effect_needs_the_fewest_runs() -> None:
    assert seeds_needed(100.0, 1.0) == 2
    assert power(2, 1e6, 1.0) == 1.0


def test_noethers_pairs() -> None:
    assert noether_pairs() == 29
    assert noether_pairs(0.6) > noether_pairs(0.7) > noether_pairs(0.9)


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.floats(0.5, 0.99))
@settings(max_examples=50, deadline=None)
def test_the_answer_suffices(difference: float, sd: float, wanted: float) -> None:
    if sd / difference < 100:
        assert power(seeds_needed(difference, sd, power=wanted), difference, sd) >= wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"difference": 0}, "difference=0"),
        ({"difference": -0.1}, "difference="),
        ({"sd": 0.0}, "sd="),
        ({"power": 1}, "power="),
        ({"level": 0}, "level="),
        ({"method": "z"}, "method='z'"),
        ({"difference": 1e-6}, "larger difference"),
        ({"difference": 1e-300}, "larger difference"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        seeds_needed(**{"difference": 0.2, "sd": 0.2} | arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("probability", [0.5, 0.3, 1.0, 75])
def test_bad_probability_is_named(probability: float) -> None:
    with pytest.raises(UsageError, match="probability="):
        noether_pairs(probability)
