"""Several units over several hosts: mean ranks with Friedman's test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError


@dataclass(frozen=True)
class RankComparison:
    """Friedman's comparison of treatments over blocks.

    Attributes:
        mean_ranks: by treatment; 1 is the best, ties share the mean of their ranks.
        p_value: Friedman's test that no treatment is better than another. None where all values of every block agree.
        blocks: number of blocks.
    """

    mean_ranks: dict[str, float]
    p_value: float | None
    blocks: int


def compare_ranks(values: Mapping[str, Sequence[float]]) -> RankComparison:
    """Mean ranks of treatments (units) over blocks (hosts or data sets), larger values ranked first (Demsar 2006).

    Friedman's statistic 12 b / (k (k + 1)) (sum of mean ranks^2 - k (k + 1)^2 / 4), corrected for ties, against chi^2
    with k - 1 degrees of freedom. That approximation is coarse below ten blocks or five treatments.

    Args:
        values: for each treatment one value per block, the blocks in the same order.

    Raises:
        UsageError: fewer than three treatments or two blocks, blocks missing for a treatment, or a value that is not
            finite.
    """
    lengths = {len(blocks) for blocks in values.values()}
    if len(values) < 3 or len(lengths) != 1 or min(lengths) < 2:
        shape = ", ".join(f"{name} {len(blocks)}" for name, blocks in values.items()) or "none"
        raise UsageError(
            f"values={{{shape}}} is not allowed; give at least three treatments with the same blocks (>= 2)"
        )
    table = np.array(list(values.values()), dtype=np.float64)
    if not np.isfinite(table).all():
        raise UsageError("values hold a number that is not finite; give finite numbers")
    from scipy import stats  # slow to import, and needed only where there are several hosts

    ranks = stats.rankdata(-table, axis=0)
    constant = bool((table == table[0]).all())
    p_value = None if constant else float(stats.friedmanchisquare(*table).pvalue)
    means = dict(zip(values, ranks.mean(axis=1).tolist(), strict=True))
    return RankComparison(means, None if p_value is None or math.isnan(p_value) else p_value, table.shape[1])
