"""Corrections for several comparisons."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from convswap.errors import UsageError
from convswap.measure.statistics import benjamini_hochberg, holm

probabilities = st.lists(st.floats(0, 1), max_size=8)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_benjamini_hochberg_by_hand() -> None:
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert benjamini_hochberg([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_benjamini_hochberg_is_scipys(p: list[float]) -> None:
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p).tolist())


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
@pytest.mark.parametrize("bad", [[-0.1], [0.5, 1.5], [float("nan")]])
def test_bad_p_values_are_named(correct: object, bad: list[float]) -> None:
    assert callable(correct)
    with pytest.raises(UsageError, match="p_values="):
        correct(bad)


@given(probabilities)
def test_corrections_never_lower_and_keep_the_order(p: list[float]) -> None:
    order = sorted(range(len(p)), key=p.__getitem__)
    strict, mild = holm(p), benjamini_hochberg(p)
    for adjusted in (strict, mild):
        assert all(raw <= new * (1 + 1e-12) and new <= 1 for raw, new in zip(p, adjusted, strict=True))
        assert [adjusted[i] for i in order] == sorted(adjusted)
    assert all(fewer <= more * (1 + 1e-12) for fewer, more in zip(mild, strict, strict=True))
