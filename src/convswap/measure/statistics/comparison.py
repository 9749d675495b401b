"""One set of values against the baseline's, by the statistics that `convswap compare` decides with."""

from __future__ import annotations

from dataclasses import dataclass

from .permutation import permutation_p_value
from .superiority import probability_better
from .values import Values
from .welch import welch


@dataclass(frozen=True)
class Comparison:
    """One set of values against the baseline's.

    Attributes:
        difference: mean of the values minus mean of the baseline.
        low: lower end of Welch's interval of the difference; None where there is none.
        high: its upper end.
        p_value: two-sided permutation test of the difference of means.
        probability_better: chance that a random value beats a random baseline value, ties counted half.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float
    probability_better: float


def compare_to_baseline(values: Values, baseline: Values, confidence: float = 0.95) -> Comparison:
    """Compare values (one per seed) with the baseline's: Welch's interval, permutation test, effect size.

    Raises:
        UsageError: no values, one that is not finite, or a confidence outside 0..1.
    """
    found = welch(values, baseline, confidence)
    return Comparison(
        found.difference,
        found.low,
        found.high,
        permutation_p_value(values, baseline),
        probability_better(values, baseline),
    )
