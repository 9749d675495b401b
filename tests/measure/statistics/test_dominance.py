"""Almost stochastic order: a naive integral, the reference's values, and the right correction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convswap.errors import UsageError
from convswap.measure.statistics import almost_stochastic_order, violation_ratio

values = st.lists(st.integers(0, 40).map(float), min_size=2, max_size=7)


def naive(a: list[float], b: list[float], left_out: int = 0, step: float = 0.005) -> float:
    """The ratio by a loop over the grid. `left_out` first points do not count as violations."""
    a, b = sorted(a), sorted(b)
    violated = whole = 0.0
    for index, t in enumerate(np.arange(step, 1, step)):
        f, g = (x[math.ceil(len(x) * t) - 1] for x in (a, b))
        whole += (f - g) ** 2
        violated += (f - g) ** 2 if g > f and index >= left_out else 0.0
    return violated / whole if whole else 0.5


@given(values, values)
@settings(max_examples=50, deadline=None)
def test_ratio_is_the_naive_sum_and_mirrors(a: list[float], b: list[float]) -> None:
    assert violation_ratio(a, b) == pytest.approx(naive(a, b), abs=1e-12)
    assert violation_ratio(a, b) + violation_ratio(b, a) == pytest.approx(1.0)


def test_the_references_values(golden: Any) -> None:
    for case in golden("recipes")["case_aso"]["cases"]:
        a, b = case["a"].tolist(), case["b"].tolist()
        # The reference leaves the first point of the grid out of the violations. That is no part of the definition.
        assert naive(a, b, left_out=1) == pytest.approx(case["violation_ratio_dt0.005"], abs=1e-12)
        assert violation_ratio(a, b) == pytest.approx(naive(a, b), abs=1e-12)
        assert almost_stochastic_order(a, b, seed=1) == pytest.approx(case["aso_eps_min_seed1"], abs=0.05)


def test_dominance_and_its_opposite() -> None:
    assert almost_stochastic_order([5, 6, 7], [1, 2, 3]) == 0.0
    assert almost_stochastic_order([1, 2, 3], [5, 6, 7]) == 1.0


def overlapping() -> tuple[Any, Any]:
    generator = np.random.default_rng(1)
    return generator.normal(0.2, 1, 15), generator.normal(0, 1, 15)


def test_eps_is_the_ratio_plus_the_bootstrap_deviation() -> None:
    a, b = overlapping()
    generator = np.random.default_rng(5)
    drawn = [naive(generator.choice(a, 15).tolist(), generator.choice(b, 15).tolist()) for _ in range(800)]
    expected = naive(a.tolist(), b.tolist()) + 1.6449 * float(np.std(drawn))
    assert 0.1 < expected < 0.9
    assert almost_stochastic_order(a, b) == pytest.approx(expected, abs=0.03)


def test_more_comparisons_never_make_the_claim_easier() -> None:
    a, b = overlapping()
    one, three, ten = (almost_stochastic_order(a, b, comparisons=m) for m in (1, 3, 10))
    assert one < three < ten, "the reference's correction goes the other way"
    assert three == almost_stochastic_order(a, b, 1 - 0.05 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "values="),
        ({"confidence": 0}, "confidence="),
        ({"comparisons": 0}, "comparisons="),
        ({"resamples": 1}, "resamples="),
        ({"step": 1.5}, "step="),
    ],
)
def test_bad_input_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        almost_stochastic_order(**{"values": [1.0], "baseline": [2.0]} | arguments)  # type: ignore[arg-type]
