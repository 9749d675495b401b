"""The permutation test: by hand, against scipy, and against naive enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from convswap.errors import UsageError
from convswap.measure.statistics import EXACT_LIMIT, permutation_p_value, smallest_p_value

A = [91.2, 91.9, 90.8, 91.5]
B = [90.1, 90.9, 91.0, 90.2]


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
    expected = stats.permutation_test(
        (A, B), lambda x, y, axis: x.mean(axis) - y.mean(axis), n_resamples=np.inf, vectorized=True
    )
    assert permutation_p_value(A, B) == pytest.approx(expected.pvalue, rel=1e-12)


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


@pytest.mark.parametrize(("n", "baseline_n"), [(3, 3), (4, 4), (3, 5), (5, 5), (20, 20)])
def test_the_smallest_p_value_is_that_of_groups_that_do_not_overlap(n: int, baseline_n: int) -> None:
    apart = permutation_p_value([100.0 + i for i in range(n)], [float(i) for i in range(baseline_n)])
    assert smallest_p_value(n, baseline_n) == pytest.approx(apart)
    assert smallest_p_value(n, baseline_n, 4) == pytest.approx(min(1.0, 4 * apart))


@pytest.mark.parametrize("bad", [(0, 3, 1), (3, -1, 1), (3, 3, 0), (3.0, 3, 1)])
def test_bad_numbers_are_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="is not allowed"):
        smallest_p_value(*bad)
