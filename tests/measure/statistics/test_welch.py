"""Welch's test and interval, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from convswap.errors import UsageError
from convswap.measure.statistics import welch

A = [91.2, 91.9, 90.8, 91.5]
B = [90.1, 90.9, 91.0, 90.2, 90.4]


def test_welch_is_scipys() -> None:
    found, expected = welch(A, B), stats.ttest_ind(A, B, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.difference == pytest.approx(np.mean(A) - np.mean(B))
    assert (found.t, found.freedom, found.p_value) == pytest.approx(
        (expected.statistic, expected.df, expected.pvalue), rel=1e-10
    )


def test_one_constant_group_uses_the_others_freedom() -> None:
    found = welch([1.0, 1.0, 1.0], [0.0, 1.0, 2.0])
    half = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((-half, half))
    assert found.p_value == 1.0


@pytest.mark.parametrize(("values", "baseline"), [([1.0], [0.0, 1.0]), ([1.0, 2.0], [0.0]), ([1.0] * 3, [0.5] * 3)])
def test_nothing_where_the_values_do_not_tell(values: list[float], baseline: list[float]) -> None:
    found = welch(values, baseline)
    assert (found.low, found.high, found.t, found.freedom, found.p_value) == (None,) * 5
    assert found.difference == pytest.approx(np.mean(values) - np.mean(baseline))


@pytest.mark.parametrize("values", [[1.0], A])
def test_bad_confidence_is_named_even_where_it_is_not_needed(values: list[float]) -> None:
    with pytest.raises(UsageError, match="confidence=95"):
        welch(values, B, 95)


@given(st.floats(1e-100, 1e100), st.floats(-1, 1))
@settings(max_examples=30, deadline=None)
def test_scale_and_place_do_not_matter(scale: float, shift: float) -> None:
    found = welch([(x + shift) * scale for x in A], [(x + shift) * scale for x in B])
    assert found.p_value == pytest.approx(welch(A, B).p_value, rel=1e-6)
