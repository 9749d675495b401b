"""P(A > B): Mann-Whitney's U, its bootstrap interval, and the declared rule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from convswap.errors import UsageError
from convswap.measure.statistics import Superiority, probability_better, superiority

accuracies = st.lists(st.integers(0, 360).map(lambda k: k / 360), min_size=2, max_size=5)


def test_probability_better_is_mann_whitney() -> None:
    values, baseline = [3.0, 2.0, 2.0], [1.0, 2.0, 5.0, 3.0]
    expected = stats.mannwhitneyu(values, baseline).statistic / 12
    assert probability_better(values, baseline) == pytest.approx(expected)


def test_the_interval_is_that_of_all_resamples() -> None:
    a, b = [3.0, 2.0, 4.0], [1.0, 2.5, 3.0]
    drawn = [probability_better(x, y) for x in itertools.product(a, repeat=3) for y in itertools.product(b, repeat=3)]
    found = superiority(a, b, 0.8, resamples=20_000)
    assert found.probability == probability_better(a, b)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.1, 0.9])), abs=0.06)


@given(accuracies, accuracies)
@settings(max_examples=30, deadline=None)
def test_the_interval_holds_the_estimate_within_0_and_1(a: list[float], b: list[float]) -> None:
    found = superiority(a, b, 0.99)
    assert 0 <= found.low <= found.probability + 1e-9
    assert found.probability - 1e-9 <= found.high <= 1


@pytest.mark.parametrize(
    ("probability", "low", "meaningful"),
    [(0.75, 0.51, True), (0.9, 0.5, False), (0.74, 0.6, False), (0.2, 0.1, False)],
)
def test_the_declared_rule(probability: float, low: float, meaningful: bool) -> None:
    assert Superiority(probability, low, 1.0).meaningful is meaningful


def test_values_that_do_not_overlap() -> None:
    found = superiority([3, 4], [1, 2])
    assert (found.probability, found.low, found.high, found.meaningful) == (1.0, 1.0, 1.0, True)


@pytest.mark.parametrize("bad", [[1.0], [], [float("nan"), 1.0]])
def test_bad_values_are_named(bad: list[float]) -> None:
    with pytest.raises(UsageError, match="baseline="):
        superiority([1.0, 2.0], bad)
