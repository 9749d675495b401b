"""Student's interval of a mean, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from convswap.errors import UsageError
from convswap.measure.statistics import mean_interval

A = [91.2, 91.9, 90.8, 91.5]


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_mean_interval_is_students(confidence: float) -> None:
    found = mean_interval(A, confidence)
    low, high = stats.ttest_1samp(A, 0).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert (found.mean, found.sd, found.n) == pytest.approx((91.35, np.std(A, ddof=1), 4))


# The table of recipes.md: the half-width in deviations.
@pytest.mark.parametrize(("n", "half"), [(2, 8.99), (3, 2.48), (4, 1.59), (5, 1.24), (8, 0.84), (10, 0.72), (20, 0.47)])
def test_half_widths_in_deviations(n: int, half: float) -> None:
    values = np.arange(n, dtype=float)
    found = mean_interval(values)
    assert found.high is not None
    assert (found.high - found.mean) / np.std(values, ddof=1) == pytest.approx(half, abs=0.006)


def test_one_value_has_no_spread() -> None:
    found = mean_interval([0.9])
    assert (found.mean, found.low, found.high, found.sd, found.n) == (0.9, None, None, None, 1)


@pytest.mark.parametrize("value", [0.9, 0.1, 1 / 3])
def test_equal_values_give_no_interval(value: float) -> None:
    found = mean_interval([value] * 3)
    assert (found.low, found.high, found.sd) == (None, None, 0.0)


@pytest.mark.parametrize("bad", [[], [float("nan")], [float("inf"), 1.0], [[1.0]], ["high"], None])
def test_bad_values_are_named(bad: list[float]) -> None:
    with pytest.raises(UsageError, match="values="):
        mean_interval(bad)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_bad_confidence_is_named(confidence: float) -> None:
    with pytest.raises(UsageError, match="confidence="):
        mean_interval(A, confidence)
