"""Friedman's test and mean ranks."""

from __future__ import annotations

import pytest
from scipy import stats

from convswap.errors import UsageError
from convswap.measure.statistics import compare_ranks

UNITS = {"conv": [0.90, 0.80, 0.70, 0.95], "circle": [0.91, 0.82, 0.70, 0.96], "ic": [0.88, 0.81, 0.69, 0.94]}


def test_it_is_friedmans_test_with_mean_ranks() -> None:
    found = compare_ranks(UNITS)
    assert found.p_value == pytest.approx(stats.friedmanchisquare(*UNITS.values()).pvalue)
    # By host: conv 2, 3, 1.5, 2; circle 1, 1, 1.5, 1; ic 3, 2, 3, 3.
    assert found.mean_ranks == pytest.approx({"conv": 2.125, "circle": 1.125, "ic": 2.75})
    assert found.blocks == 4


def test_units_that_never_differ_have_no_p_value() -> None:
    found = compare_ranks({name: [0.5, 0.6] for name in "abc"})
    assert found.p_value is None
    assert found.mean_ranks == {"a": 2.0, "b": 2.0, "c": 2.0}


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"a": [1.0, 2.0], "b": [1.0, 2.0]},
        {"a": [1.0], "b": [1.0], "c": [2.0]},
        {"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0]},
        {"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, float("nan")]},
    ],
)
def test_bad_input_is_named(bad: dict[str, list[float]]) -> None:
    with pytest.raises(UsageError, match="values"):
        compare_ranks(bad)
