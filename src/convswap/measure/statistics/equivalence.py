"""Two one-sided tests: whether two sides are *equal within a margin*, which a test of difference never shows."""

from __future__ import annotations

from dataclasses import dataclass

from .interval import around
from .values import Values, positive, sample
from .welch import error_and_freedom


@dataclass(frozen=True)
class Equivalence:
    """The two one-sided tests at a margin.

    Attributes:
        difference: mean of the values minus mean of the baseline.
        margin: the largest difference that does not matter, stated before looking.
        low: lower end of the 90 % interval of the difference. Equality at 5 % is the interval within the margin.
        high: its upper end.
        p_value: the larger of the two one-sided p-values.

    `low`, `high` and `p_value` are None where the values give no estimate of the spread.
    """

    difference: float
    margin: float
    low: float | None
    high: float | None
    p_value: float | None


def equivalence(values: Values, baseline: Values, margin: float) -> Equivalence:
    """Schuirmann's test (1987) that |mean(values) - mean(baseline)| < margin, with Welch's standard error e.

    p = max(P(T > (difference + margin) / e), P(T < (difference - margin) / e)) for Student's T: both "lower by the
    margin or more" and "higher by the margin or more" must be rejected.

    Raises:
        UsageError: no values, one that is not finite, or a margin that is not above 0.
    """
    a, b = sample("values", values), sample("baseline", baseline)
    positive("margin", margin)
    difference = float(a.mean() - b.mean())
    if (found := error_and_freedom(a, b)) is None:
        return Equivalence(difference, margin, None, None, None)
    error, freedom = found
    from scipy.special import stdtr

    not_lower = float(stdtr(freedom, -(difference + margin) / error))
    not_higher = float(stdtr(freedom, (difference - margin) / error))
    low, high = around(difference, error, freedom, 0.9)
    return Equivalence(difference, margin, low, high, max(not_lower, not_higher))
