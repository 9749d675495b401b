"""Statistics of a few seeds: intervals, a permutation test against the baseline, Holm's correction.

What cannot be computed is None: one value has no spread, and values that do not vary at all (three seeds that agree
to the last image) give no estimate of the spread, so neither gets an interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

Array = NDArray[np.float64]

EXACT_LIMIT = 20_000
"""Every regrouping is enumerated up to this many. Beyond it, this many are drawn at random."""
_CHUNK = 1_000


@dataclass(frozen=True)
class Interval:
    """A mean with its t interval; `low`, `high` are None where the values give no interval, `sd` for one value."""

    mean: float
    low: float | None
    high: float | None
    sd: float | None
    n: int


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


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean, standard deviation (n - 1) and Student's t interval.

    >>> found = mean_interval([90.0, 91.0, 92.0])
    >>> found.mean, round(found.low, 3), round(found.high, 3), found.sd
    (91.0, 88.516, 93.484, 1.0)
    """
    data = _checked("values", values)
    mean, n = float(data.mean()), len(data)
    if n == 1:
        return Interval(mean, None, None, None, 1)
    sd = _deviation(data)
    low, high = _around(mean, sd / math.sqrt(n), n - 1, confidence)
    return Interval(mean, low, high, sd, n)


def compare_to_baseline(values: Sequence[float], baseline: Sequence[float], confidence: float = 0.95) -> Comparison:
    """Compare values (one per seed) with the baseline's: Welch's interval, permutation test, effect size."""
    a, b = _checked("values", values), _checked("baseline", baseline)
    difference = float(a.mean() - b.mean())
    low, high = _welch(a, b, difference, confidence)
    return Comparison(difference, low, high, permutation_p_value(a, b), probability_better(a, b))


def permutation_p_value(values: Sequence[float] | Array, baseline: Sequence[float] | Array, seed: int = 0) -> float:
    """Two-sided permutation test of the difference of means.

    The test is exact (every way to pick the first group out of the pooled values) up to 20,000 ways. Beyond that it
    draws 20,000 seeded random regroupings and counts the observed one in, so the p-value is never zero.
    """
    a, b = _checked("values", values), _checked("baseline", baseline)
    pooled = np.concatenate([a, b])
    pooled = pooled - pooled.mean()  # the sum of the first group then decides alone, and rounding stays small
    observed = abs(float(pooled[: len(a)].sum()))
    # Regroupings that are equal on paper differ by rounding; accuracies are full of such ties.
    threshold = observed - 1e-12 * float(np.abs(pooled).sum())
    exact = math.comb(len(pooled), len(a)) <= EXACT_LIMIT
    extreme = total = 0 if exact else 1
    for sums in _exact_sums(pooled, len(a)) if exact else _random_sums(pooled, len(a), seed):
        extreme += int(np.count_nonzero(np.abs(sums) >= threshold))
        total += len(sums)
    return extreme / total


def probability_better(values: Sequence[float] | Array, baseline: Sequence[float] | Array) -> float:
    """P(A > B) + P(A = B) / 2, which is Mann-Whitney's U over the number of pairs.

    >>> probability_better([3, 2], [1, 2])
    0.875
    """
    a, b = _checked("values", values), np.sort(_checked("baseline", baseline))
    wins = np.searchsorted(b, a, "left").sum() + np.searchsorted(b, a, "right").sum()
    return float(wins) / (2 * len(a) * len(b))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for several comparisons, in the order given.

    >>> holm([0.5, 0.25])
    [0.5, 0.5]
    """
    p = [float(value) for value in p_values]
    if any(not 0 <= value <= 1 for value in p):
        raise UsageError(f"p_values={p} is not allowed; every p-value lies between 0 and 1")
    adjusted, running = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = running
    return adjusted


def _checked(name: str, values: Sequence[float] | Array) -> Array:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0 or not np.isfinite(data).all():
        raise UsageError(f"{name}={values!r} is not allowed; give at least one finite number")
    return data


def _deviation(data: Array) -> float:
    """The sample deviation; 0 exactly for equal values, where rounding of the mean would leave a residue."""
    return 0.0 if (data == data[0]).all() else float(data.std(ddof=1))


def _around(centre: float, error: float, freedom: float, confidence: float) -> tuple[float | None, float | None]:
    if not 0 < confidence < 1:
        raise UsageError(f"confidence={confidence!r} is not allowed; choose a number between 0 and 1, such as 0.95")
    if error == 0:
        return None, None
    from scipy.special import stdtrit  # the t quantile without the slow import of scipy.stats

    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return centre - half, centre + half


def _welch(a: Array, b: Array, difference: float, confidence: float) -> tuple[float | None, float | None]:
    if min(len(a), len(b)) < 2:
        return None, None
    error_a, error_b = (_deviation(x) / math.sqrt(len(x)) for x in (a, b))
    error = math.hypot(error_a, error_b)
    if error == 0:
        return None, None
    # Welch-Satterthwaite in shares of the squared error: no under- or overflow for tiny or huge deviations.
    freedom = 1 / ((error_a / error) ** 4 / (len(a) - 1) + (error_b / error) ** 4 / (len(b) - 1))
    return _around(difference, error, freedom, confidence)


def _exact_sums(pooled: Array, size: int) -> Iterator[Array]:
    picks = itertools.combinations(range(len(pooled)), size)
    while chunk := list(itertools.islice(picks, _CHUNK)):
        yield pooled[np.array(chunk)].sum(axis=1)


def _random_sums(pooled: Array, size: int, seed: int) -> Iterator[Array]:
    generator = np.random.default_rng(seed)
    for _ in range(EXACT_LIMIT // _CHUNK):
        shuffled = generator.permuted(np.broadcast_to(pooled, (_CHUNK, len(pooled))), axis=1)
        yield shuffled[:, :size].sum(axis=1)
