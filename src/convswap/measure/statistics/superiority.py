"""How often a run of one side beats a run of the other, and when that is worth a claim."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import check_whole
from .bootstrap import RESAMPLES, percentile, resampled
from .values import Array, Values, sample, share

MEANINGFUL = 0.75
"""The probability from which an improvement counts as meaningful (Bouthillier et al. 2021, arXiv:2103.03098)."""


@dataclass(frozen=True)
class Superiority:
    """P(A > B), the probability that a random value beats a random baseline value, ties counted half.

    Attributes:
        probability: the estimate.
        low: lower end of its percentile bootstrap interval.
        high: its upper end.
        meaningful: the declared rule: `low > 0.5` (not by chance) and `probability >= 0.75` (often enough to matter).
    """

    probability: float
    low: float
    high: float

    @property
    def meaningful(self) -> bool:
        """Whether the values are meaningfully better than the baseline."""
        return self.low > 0.5 and self.probability >= MEANINGFUL


def probability_better(values: Values, baseline: Values) -> float:
    """P(A > B) + P(A = B) / 2, which is Mann-Whitney's U over the number of pairs.

    Raises:
        UsageError: no values, or one that is not finite.

    >>> probability_better([3, 2], [1, 2])
    0.875
    """
    a, b = sample("values", values), np.sort(sample("baseline", baseline))
    wins = np.searchsorted(b, a, "left").sum() + np.searchsorted(b, a, "right").sum()
    return float(wins) / (2 * len(a) * len(b))


def superiority(
    values: Values, baseline: Values, confidence: float = 0.95, *, resamples: int = RESAMPLES, seed: int = 0
) -> Superiority:
    """`probability_better` with a bootstrap interval over the seeds of both sides.

    Two sides that do not overlap have the interval [1, 1], however few they are: nothing in them says otherwise. The
    p-value of a test beside it does.

    Raises:
        UsageError: fewer than two values on a side, one that is not finite, or a number out of its bounds.
    """
    a, b = sample("values", values, 2), sample("baseline", baseline, 2)
    share("confidence", confidence, 0.95)
    check_whole("resamples", resamples)
    wins: Array = (a[:, None] > b).astype(np.float64) + 0.5 * (a[:, None] == b)
    generator = np.random.default_rng(seed)
    rows, columns = (resampled(np.arange(len(x), dtype=np.float64), resamples, generator).astype(int) for x in (a, b))
    draws = wins[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    return Superiority(probability_better(a, b), *percentile(draws, confidence))
