"""Two one-sided tests, against scipy's one-sided t-tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from convswap.errors import UsageError
from convswap.measure.statistics import equivalence

A = [91.2, 91.9, 90.8, 91.5]
B = [90.9, 91.4, 91.6, 91.0, 91.3]


@pytest.mark.parametrize("margin", [0.1, 0.5, 2.0])
def test_it_is_two_one_sided_welch_tests(margin: float) -> None:
    lower = stats.ttest_ind(np.array(A) + margin, B, equal_var=False, alternative="greater").pvalue
    upper = stats.ttest_ind(np.array(A) - margin, B, equal_var=False, alternative="less").pvalue
    found = equivalence(A, B, margin)
    assert found.p_value == pytest.approx(max(lower, upper), rel=1e-9)
    assert found.difference == pytest.approx(np.mean(A) - np.mean(B))


@given(st.floats(0.01, 3))
@settings(max_examples=50, deadline=None)
def test_equal_at_5_percent_is_the_90_percent_interval_within_the_margin(margin: float) -> None:
    found = equivalence(A, B, margin)
    assert found.p_value is not None
    assert found.low is not None
    assert found.high is not None
    assert (found.p_value < 0.05) == (-margin < found.low and found.high < margin)


def test_a_large_difference_is_never_equal_within_a_small_margin() -> None:
    found = equivalence([95.0, 95.1, 94.9], [90.0, 90.1, 89.9], 0.5)
    assert found.p_value is not None
    assert found.p_value > 0.999


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([1.0, 1.0], [1.0, 1.0])])
def test_no_spread_shows_nothing(a: list[float], b: list[float]) -> None:
    found = equivalence(a, b, 0.5)
    assert (found.low, found.high, found.p_value) == (None, None, None)


@pytest.mark.parametrize("margin", [0, -1, float("nan"), True, "wide"])
def test_a_bad_margin_is_named(margin: float) -> None:
    with pytest.raises(UsageError, match="margin="):
        equivalence(A, B, margin)
