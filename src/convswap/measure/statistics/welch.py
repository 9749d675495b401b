"""Welch's test and interval of a difference of two means, without assuming equal variances."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .interval import around
from .values import Values, deviation, sample


@dataclass(frozen=True)
class Welch:
    """Welch's comparison of two means.

    Attributes:
        difference: mean of the values minus mean of the baseline.
        low: lower end of the interval of the difference.
        high: its upper end.
        t: the difference over its standard error.
        freedom: the degrees of freedom of Welch and Satterthwaite.
        p_value: two-sided, from Student's t.

    All but the difference are None where one side has a single value, or where no value varies.
    """

    difference: float
    low: float | None = None
    high: float | None = None
    t: float | None = None
    freedom: float | None = None
    p_value: float | None = None


def welch(values: Values, baseline: Values, confidence: float = 0.95) -> Welch:
    """Welch's test (Biometrika 1947) of mean(values) = mean(baseline).

    t = (mean a - mean b) / e with e^2 = sd_a^2 / n + sd_b^2 / m and
    freedom = e^4 / ((sd_a^2 / n)^2 / (n - 1) + (sd_b^2 / m)^2 / (m - 1)).

    Raises:
        UsageError: no values, one that is not finite, or a confidence outside 0..1.
    """
    a, b = sample("values", values), sample("baseline", baseline)
    difference = float(a.mean() - b.mean())
    if (found := error_and_freedom(values, baseline)) is None:
        around(difference, 0.0, 1, confidence)
        return Welch(difference)
    error, freedom = found
    low, high = around(difference, error, freedom, confidence)
    from scipy.special import stdtr

    t = difference / error
    return Welch(difference, low, high, t, freedom, 2 * float(stdtr(freedom, -abs(t))))


def error_and_freedom(values: Values, baseline: Values) -> tuple[float, float] | None:
    """The standard error of the difference and its degrees of freedom, None where the values do not tell."""
    a, b = sample("values", values), sample("baseline", baseline)
    if min(len(a), len(b)) < 2:
        return None
    error_a, error_b = (deviation(x) / math.sqrt(len(x)) for x in (a, b))
    error = math.hypot(error_a, error_b)
    if error == 0:
        return None
    # In shares of the squared error: no under- or overflow for tiny or huge deviations.
    return error, 1 / ((error_a / error) ** 4 / (len(a) - 1) + (error_b / error) ** 4 / (len(b) - 1))
