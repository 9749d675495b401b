"""A permutation test of the difference of two means, exact for a few seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from ...errors import check_whole
from .values import Array, Values, sample

EXACT_LIMIT = 20_000
"""Every regrouping is enumerated up to this many. Beyond it, this many are drawn at random."""
_CHUNK = 1_000


def permutation_p_value(values: Values, baseline: Values, seed: int = 0) -> float:
    """Two-sided permutation test of the difference of means: the share of regroupings at least as far apart.

    The test is exact (every way to pick the first group out of the pooled values) up to 20,000 ways. Beyond that it
    draws 20,000 seeded random regroupings and counts the observed one in, so the p-value is never zero (Phipson and
    Smyth 2010).

    Raises:
        UsageError: no values, or one that is not finite.
    """
    a, b = sample("values", values), sample("baseline", baseline)
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


def smallest_p_value(n: int, baseline_n: int, comparisons: int = 1) -> float:
    """The smallest Holm-corrected p-value that so many seeds can give, however far apart they lie.

    k / C(n + m, n), where k is 2 for equal sizes (the mirrored grouping is as far apart) and 1 otherwise, times the
    number of comparisons. Beyond `EXACT_LIMIT` regroupings it is that of the random draws.

    Raises:
        UsageError: a number below 1.

    >>> round(smallest_p_value(3, 3), 3), round(smallest_p_value(5, 5), 3)
    (0.1, 0.008)
    """
    for name, number in (("n", n), ("baseline_n", baseline_n), ("comparisons", comparisons)):
        check_whole(name, number)
    ways = math.comb(n + baseline_n, n)
    smallest = (2 if n == baseline_n else 1) / ways if ways <= EXACT_LIMIT else 1 / (EXACT_LIMIT + 1)
    return min(1.0, comparisons * smallest)


def _exact_sums(pooled: Array, size: int) -> Iterator[Array]:
    picks = itertools.combinations(range(len(pooled)), size)
    while chunk := list(itertools.islice(picks, _CHUNK)):
        yield pooled[np.array(chunk)].sum(axis=1)


def _random_sums(pooled: Array, size: int, seed: int) -> Iterator[Array]:
    generator = np.random.default_rng(seed)
    for _ in range(EXACT_LIMIT // _CHUNK):
        shuffled = generator.permuted(np.broadcast_to(pooled, (_CHUNK, len(pooled))), axis=1)
        yield shuffled[:, :size].sum(axis=1)
