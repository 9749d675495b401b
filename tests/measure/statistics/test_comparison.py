"""One set of values against the baseline's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convswap.errors import UsageError
from convswap.measure.statistics import compare_to_baseline, permutation_p_value, probability_better, welch

A = [91.2, 91.9, 90.8, 91.5]
B = [90.1, 90.9, 91.0, 90.2, 90.4]
accuracies = st.lists(st.integers(0, 360).map(lambda k: k / 360), min_size=2, max_size=5)


def test_it_puts_the_parts_together() -> None:
    found, interval = compare_to_baseline(A, B, 0.9), welch(A, B, 0.9)
    assert (found.difference, found.low, found.high) == (interval.difference, interval.low, interval.high)
    assert found.p_value == permutation_p_value(A, B)
    assert found.probability_better == probability_better(A, B)


@pytest.mark.parametrize("bad", [[], [float("nan")], [float("inf"), 1.0]])
def test_bad_values_are_named(bad: list[float]) -> None:
    with pytest.raises(UsageError, match="baseline="):
        compare_to_baseline([1.0], bad)


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
