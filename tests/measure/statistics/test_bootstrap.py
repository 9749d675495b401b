"""Bootstrap of a difference: against all resamples of tiny samples, and against scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from convswap.errors import UsageError
from convswap.measure.statistics import bootstrap_interval, bootstrap_p_value

A = [91.2, 91.9, 90.8]
B = [90.1, 90.9, 91.0]


def every_difference(a: list[float], b: list[float]) -> np.ndarray:
    """The difference of the means of every resample of both sides, 27 x 27 of them."""
    means = [np.array([np.mean(pick) for pick in itertools.product(side, repeat=3)]) for side in (a, b)]
    return (means[0][:, None] - means[1]).ravel()


def test_percentile_interval_is_that_of_all_resamples() -> None:
    drawn = every_difference(A, B)
    low, high = bootstrap_interval(A, B, resamples=100_000)
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.035)
    assert bootstrap_interval(A, B) == bootstrap_interval(A, B), "the draws are seeded"
    assert bootstrap_interval(A, B, 0.7, resamples=9) != bootstrap_interval(A, B, 0.7, resamples=9, seed=1)


def test_bca_is_scipys_and_is_not_the_percentile_interval() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.exponential(1, 12), generator.exponential(1.5, 10)
    expected = stats.bootstrap(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), n_resamples=4000, random_state=np.random.default_rng(8)
    ).confidence_interval
    found = bootstrap_interval(a, b, method="BCa", resamples=4000, seed=8)
    assert found == pytest.approx((expected.low, expected.high))
    assert found != pytest.approx(bootstrap_interval(a, b, resamples=4000, seed=8), abs=1e-3)


def test_p_value_is_the_share_of_all_resamples() -> None:
    centred = every_difference([x - np.mean(A) for x in A], [x - np.mean(B) for x in B])
    expected = np.mean(np.abs(centred) >= abs(np.mean(A) - np.mean(B)) - 1e-9)
    assert bootstrap_p_value(A, B, resamples=50_000) == pytest.approx(expected, abs=0.01)


def test_p_value_at_its_ends() -> None:
    assert bootstrap_p_value([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1.0
    assert bootstrap_p_value([101.0, 102.0, 103.0], [1.0, 2.0, 3.0], resamples=999) == 1 / 1000


def test_p_value_of_equal_values_on_each_side() -> None:
    assert bootstrap_p_value([1.0, 1.0], [1.0, 1.0]) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": [1.0]}, "values="),
        ({"baseline": []}, "baseline="),
        ({"confidence": 1.0}, "confidence="),
        ({"method": "basic"}, "method='basic'"),
        ({"resamples": 0}, "resamples=0"),
        ({"values": [1.0, 1.0], "baseline": [2.0, 2.0], "method": "BCa"}, "method='percentile'"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bootstrap_interval(**{"values": A, "baseline": B} | arguments)  # type: ignore[arg-type]
