"""Statistics: against scipy, against numbers worked by hand, and invariants over drawn values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from convswap.errors import UsageError
from convswap.measure.statistics import (
    EXACT_LIMIT,
    compare_to_baseline,
    holm,
    mean_interval,
    permutation_p_value,
    probability_better,
)

A = [91.2, 91.9, 90.8, 91.5]
B = [90.1, 90.9, 91.0, 90.2, 90.4]
accuracies = st.lists(st.integers(0, 360).map(lambda k: k / 360), min_size=2, max_size=5)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_mean_interval_is_students(confidence: float) -> None:
    found = mean_interval(A, confidence)
    low, high = stats.ttest_1samp(A, 0).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert (found.mean, found.sd, found.n) == pytest.approx((91.35, np.std(A, ddof=1), 4))


def test_half_width_of_three_seeds_is_two_and_a_half_deviations() -> None:
    found = mean_interval([90.0, 91.0, 92.0])
    assert found.high is not None
    assert found.high - found.mean == pytest.approx(2.484, abs=1e-3)  # the table of recipes.md: 2.48 sd for n = 3


def test_one_value_has_no_spread() -> None:
    found = mean_interval([0.9])
    assert (found.mean, found.low, found.high, found.sd, found.n) == (0.9, None, None, None, 1)


@pytest.mark.parametrize("value", [0.9, 0.1, 1 / 3])
def test_equal_values_give_no_interval(value: float) -> None:
    found = mean_interval([value] * 3)
    assert (found.low, found.high, found.sd) == (None, None, 0.0)


def test_welch_interval_is_scipys() -> None:
    found = compare_to_baseline(A, B)
    low, high = stats.ttest_ind(A, B, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.difference == pytest.approx(np.mean(A) - np.mean(B))


def test_welch_with_one_constant_group_uses_the_others_freedom() -> None:
    found = compare_to_baseline([1.0, 1.0, 1.0], [0.0, 1.0, 2.0])
    half = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((-half, half))


@pytest.mark.parametrize(("values", "baseline"), [([1.0], [0.0, 1.0]), ([1.0, 2.0], [0.0]), ([1.0] * 3, [0.5] * 3)])
def test_no_welch_interval_where_the_values_give_none(values: list[float], baseline: list[float]) -> None:
    found = compare_to_baseline(values, baseline)
    assert (found.low, found.high) == (None, None)
    assert found.difference == pytest.approx(np.mean(values) - np.mean(baseline))


def test_permutation_by_hand() -> None:
    # 20 ways to pick three of six; only the observed one and its mirror are as far apart.
    assert permutation_p_value([4, 5, 6], [1, 2, 3]) == pytest.approx(2 / 20)
    assert permutation_p_value([1.0], [2.0]) == 1.0
    assert permutation_p_value([5.0, 5.0], [5.0, 5.0]) == 1.0
    # Unequal sizes: of the 10 pairs out of 0..4, |sum - 4| >= 3 for {0,1} and {3,4}.
    assert permutation_p_value([3, 4], [0, 1, 2]) == pytest.approx(2 / 10)


def test_permutation_counts_ties_that_rounding_would_part() -> None:
    values, baseline = [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]  # both sums are 1: every regrouping is at least as extreme
    assert permutation_p_value(values, baseline) == 1.0


def test_exact_permutation_is_scipys_for_equal_sizes() -> None:
    a, b = A, B[:4]
    expected = stats.permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), n_resamples=np.inf, vectorized=True
    )
    assert permutation_p_value(a, b) == pytest.approx(expected.pvalue, rel=1e-12)


def test_random_permutations_agree_with_all_of_them() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.5, 1, 9), generator.normal(0, 1, 9)  # 48,620 ways: over the limit, yet enumerable
    assert math.comb(18, 9) > EXACT_LIMIT
    pooled = np.concatenate([a, b])
    sums = np.array([pooled[list(pick)].sum() for pick in itertools.combinations(range(18), 9)])
    expected = np.mean(np.abs(sums - pooled.sum() / 2) >= abs(a.sum() - pooled.sum() / 2) - 1e-9)
    found = permutation_p_value(a, b)
    assert found == pytest.approx(expected, abs=0.01)
    assert found == permutation_p_value(a, b), "the draws are seeded"
    assert found != permutation_p_value(a, b, seed=1)


def test_random_permutations_never_give_zero() -> None:
    assert permutation_p_value(list(range(100, 120)), list(range(20))) == pytest.approx(1 / (EXACT_LIMIT + 1))


def test_probability_better_is_mann_whitney() -> None:
    values, baseline = [3.0, 2.0, 2.0], [1.0, 2.0, 5.0, 3.0]
    expected = stats.mannwhitneyu(values, baseline).statistic / 12
    assert probability_better(values, baseline) == pytest.approx(expected)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@pytest.mark.parametrize("bad", [[], [float("nan")], [float("inf"), 1.0], [[1.0]]])
def test_bad_values_are_named(bad: list[float]) -> None:
    with pytest.raises(UsageError, match="values="):
        mean_interval(bad)
    with pytest.raises(UsageError, match="baseline="):
        compare_to_baseline([1.0], bad)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_bad_confidence_is_named(confidence: float) -> None:
    with pytest.raises(UsageError, match="confidence="):
        mean_interval(A, confidence)


@pytest.mark.parametrize("bad", [[-0.1], [0.5, 1.5], [float("nan")]])
def test_bad_p_values_are_named(bad: list[float]) -> None:
    with pytest.raises(UsageError, match="p_values="):
        holm(bad)


@given(accuracies, accuracies)
@settings(max_examples=50, deadline=None)
def test_swapping_the_two_sides_mirrors_the_comparison(a: list[float], b: list[float]) -> None:
    one, other = compare_to_baseline(a, b), compare_to_baseline(b, a)
    assert one.difference == -other.difference
    assert one.p_value == pytest.approx(other.p_value)
    assert one.probability_better == pytest.approx(1 - other.probability_better)
    assert 0 < one.p_value <= 1
    if one.low is not None:
        assert other.high is not None
        assert one.low == pytest.approx(-other.high)


@given(accuracies, accuracies, st.integers(1, 1000))
@settings(max_examples=50, deadline=None)
def test_percent_or_fraction_makes_no_difference(a: list[float], b: list[float], scale: int) -> None:
    small, large = compare_to_baseline(a, b), compare_to_baseline([x * scale for x in a], [x * scale for x in b])
    assert small.p_value == pytest.approx(large.p_value)
    assert small.probability_better == large.probability_better


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(raw <= new <= 1 for raw, new in zip(p, adjusted, strict=True))
    order = sorted(range(len(p)), key=p.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)
