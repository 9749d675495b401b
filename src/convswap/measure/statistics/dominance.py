"""Almost stochastic order: how far one sample is from beating the other at every quantile."""

from __future__ import annotations

import math

import numpy as np

from ...errors import check_whole
from .bootstrap import resampled
from .values import Array, Values, positive, sample, share

STEP = 0.005
_CHUNK = 250


def violation_ratio(values: Values, baseline: Values, step: float = STEP) -> float:
    """The share of the squared distance of two quantile functions where the baseline is ahead (del Barrio et al. 2018).

    With the quantile functions F^-1 of the values and G^-1 of the baseline:
    integral over {G^-1 > F^-1} of (G^-1 - F^-1)^2 dt / integral over 0..1 of (F^-1 - G^-1)^2 dt,
    as sums over t = step, 2 step, ... below 1. It is 0 if the values are ahead at every quantile, 1 if the baseline is,
    and 0.5 for equal samples. (The package deepsig leaves the first t out of the upper sum and stays below 1.)

    Raises:
        UsageError: no values, one that is not finite, or a step that is not between 0 and 1.

    >>> violation_ratio([2, 3], [0, 1]), violation_ratio([0, 1], [2, 3]), violation_ratio([0, 1], [0, 1])
    (0.0, 1.0, 0.5)
    """
    a, b = (np.sort(sample(name, given))[None] for name, given in (("values", values), ("baseline", baseline)))
    return float(_ratios(a, b, share("step", step, STEP))[0])


def almost_stochastic_order(
    values: Values,
    baseline: Values,
    confidence: float = 0.95,
    *,
    comparisons: int = 1,
    resamples: int = 1000,
    seed: int = 0,
    step: float = STEP,
) -> float:
    """The smallest eps for which "the values almost dominate the baseline" is not rejected (Dror et al. 2019).

    eps = ratio + z(confidence') sigma / c, between 0 and 1, where c = sqrt(n m / (n + m)), and sigma is the deviation
    of c (ratio* - ratio) over bootstrap samples. Below 0.5 the values are better; 0.2 is the advice for a claim. 0 is
    dominance at every quantile. It has little power with five seeds.

    For several comparisons Bonferroni's confidence' = 1 - (1 - confidence) / comparisons makes the bound wider.

    Args:
        values: one for each seed. The two sides need not be paired.
        baseline: the same.
        confidence: of the bound.
        comparisons: number of comparisons that the bounds shall hold for together.
        resamples: bootstrap samples.
        seed: of the draws.
        step: of the grid, see `violation_ratio`.

    Raises:
        UsageError: no values, one that is not finite, or a number out of its bounds.
    """
    a, b = sample("values", values), sample("baseline", baseline)
    share("confidence", confidence, 0.95)
    check_whole("comparisons", comparisons)
    check_whole("resamples", resamples, 2)
    ratio = violation_ratio(a, b, step)
    generator = np.random.default_rng(seed)
    draws: list[Array] = []
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        drawn, other = (np.sort(resampled(x, rows, generator), axis=1) for x in (a, b))
        draws.append(_ratios(drawn, other, step))
    scale = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    sigma = positive("scale", scale) * float(np.concatenate(draws).std())
    from scipy.special import ndtri

    z = float(ndtri(1 - (1 - confidence) / comparisons))
    return float(np.clip(ratio + z * sigma / scale, 0, 1))


def _ratios(a: Array, b: Array, step: float) -> Array:
    """The ratio of each row of two sorted arrays (rows, n) and (rows, m)."""
    times = np.arange(step, 1, step)
    difference = _quantiles(b, times) - _quantiles(a, times)
    whole = (difference**2).sum(axis=1)
    violated = (np.maximum(difference, 0) ** 2).sum(axis=1)
    ratios: Array = np.where(whole > 0, violated / np.where(whole > 0, whole, 1), 0.5)
    return ratios


def _quantiles(ordered: Array, times: Array) -> Array:
    """The step function that is the inverse of the empirical distribution."""
    n = ordered.shape[1]
    return ordered[:, np.clip(np.ceil(n * times).astype(int) - 1, 0, n - 1)]
