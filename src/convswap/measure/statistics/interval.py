"""The mean of a few seeds with Student's interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .values import Values, deviation, sample, share


@dataclass(frozen=True)
class Interval:
    """A mean with its t interval; `low`, `high` are None where the values give no interval, `sd` for one value."""

    mean: float
    low: float | None
    high: float | None
    sd: float | None
    n: int


def mean_interval(values: Values, confidence: float = 0.95) -> Interval:
    """Mean, standard deviation sd (n - 1) and Student's interval: mean +- t(n - 1, (1 + confidence) / 2) sd / sqrt(n).

    One value has no spread, and values that do not vary at all (three seeds that agree to the last image) give no
    estimate of the spread. Neither gets an interval.

    Raises:
        UsageError: no values, one that is not finite, or a confidence outside 0..1.

    >>> found = mean_interval([90.0, 91.0, 92.0])
    >>> found.mean, round(found.low, 3), round(found.high, 3), found.sd
    (91.0, 88.516, 93.484, 1.0)
    """
    data = sample("values", values)
    mean, n = float(data.mean()), len(data)
    if n == 1:
        return Interval(mean, None, None, None, 1)
    sd = deviation(data)
    low, high = around(mean, sd / math.sqrt(n), n - 1, confidence)
    return Interval(mean, low, high, sd, n)


def around(centre: float, error: float, freedom: float, confidence: float) -> tuple[float | None, float | None]:
    """The t interval around a centre with this standard error. Both ends are None where the error is 0."""
    share("confidence", confidence, 0.95)
    if error == 0:
        return None, None
    from scipy.special import stdtrit  # the t quantile without the slow import of scipy.stats

    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return centre - half, centre + half
