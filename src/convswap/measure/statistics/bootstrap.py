"""Bootstrap of a difference of two means: percentile or BCa interval, and a test."""

from __future__ import annotations

import numpy as np

from ...errors import UsageError, check_choice, check_whole
from .values import Array, Values, sample, share

RESAMPLES = 2000
"""Enough for a 95 % interval. The ends move by about a fiftieth of a deviation from one seed to the next."""


def bootstrap_interval(
    values: Values,
    baseline: Values,
    confidence: float = 0.95,
    *,
    method: str = "percentile",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """An interval of mean(values) - mean(baseline) from resampling both sides with replacement (Efron 1979, 1987).

    With few seeds it is too short: n values drawn from n vary by (n - 1) / n of what n new ones would. Trust it from
    about ten seeds on.

    Args:
        values: at least two, one for each seed.
        baseline: the same.
        confidence: of the interval.
        method: `"percentile"`, or `"BCa"` (bias-corrected and accelerated, by `scipy.stats.bootstrap`).
        resamples: how many.
        seed: of the draws.

    Raises:
        UsageError: fewer than two values on a side, one that is not finite, an unknown method or a number out of its
            bounds; for BCa, values that do not vary (it divides by their spread).
    """
    a, b = sample("values", values, 2), sample("baseline", baseline, 2)
    share("confidence", confidence, 0.95)
    check_choice("method", method, ("percentile", "BCa"))
    check_whole("resamples", resamples)
    generator = np.random.default_rng(seed)
    if method == "percentile":
        return percentile(_means(a, resamples, generator) - _means(b, resamples, generator), confidence)
    if (a == a[0]).all() and (b == b[0]).all():
        raise UsageError("method='BCa' is not allowed for values that do not vary; give method='percentile'")
    from scipy import stats  # slow to import: only who asks for BCa waits

    found = stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        n_resamples=resamples,
        confidence_level=confidence,
        method="BCa",
        random_state=generator,
    ).confidence_interval
    return float(found.low), float(found.high)


def bootstrap_p_value(values: Values, baseline: Values, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided bootstrap test of equal means (Efron and Tibshirani 1993, section 16.2).

    Both sides are moved to a common mean, where the hypothesis holds, and resampled. p is the share of resampled
    differences at least as large as the observed one, which is counted in.

    Raises:
        UsageError: fewer than two values on a side, one that is not finite, or no resamples.
    """
    a, b = sample("values", values, 2), sample("baseline", baseline, 2)
    check_whole("resamples", resamples)
    generator = np.random.default_rng(seed)
    observed = abs(float(a.mean() - b.mean()))
    a, b = a - a.mean(), b - b.mean()
    drawn = np.abs(_means(a, resamples, generator) - _means(b, resamples, generator))
    rounding = 1e-12 * float(np.abs(np.concatenate([a, b])).max())
    return (1 + int(np.count_nonzero(drawn >= observed - rounding))) / (1 + resamples)


def percentile(draws: Array, confidence: float) -> tuple[float, float]:
    """The central part of resampled numbers."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return low, high


def resampled(data: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Samples drawn from a sample with replacement, (resamples, n)."""
    return data[generator.integers(len(data), size=(resamples, len(data)))]


def _means(data: Array, resamples: int, generator: np.random.Generator) -> Array:
    means: Array = resampled(data, resamples, generator).mean(axis=1)
    return means
