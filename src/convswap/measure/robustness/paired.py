"""Differences between two models on the same perturbed images: McNemar's exact test and a paired bootstrap."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from .table import Predictions

_CHUNK = 2**22


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of one model minus that of another, over the same images.

    Attributes:
        difference: first minus second, as a fraction.
        low: lower end of the bootstrap interval over images.
        high: its upper end.
        only_first: images (times variants) that only the first model gets right.
        only_second: images (times variants) that only the second model gets right.
        p_value: McNemar's exact test, for one variant. None over several variants: their answers on one image depend
            on each other.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float | None

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided test: the chance of a split at least this uneven if both sides were equally likely.

    >>> mcnemar(1, 5)
    0.21875
    """
    if only_first < 0 or only_second < 0:
        raise UsageError(f"only_first={only_first}, only_second={only_second} is not allowed; counts are 0 or more")
    total, fewer = only_first + only_second, min(only_first, only_second)
    # Each term comes from its logarithm: 2**-total is zero in floating point above a thousand images.
    terms = (
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(fewer + 1)
    )
    return min(1.0, round(2 * math.fsum(map(math.exp, terms)), 12))


def compare_paired(
    first: Predictions,
    second: Predictions,
    variants: list[str] | tuple[str, ...],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Compare the mean accuracy over some variants. The bootstrap resamples images, with all their variants.

    Raises:
        UsageError: the tables are not of the same images, a variant is missing, or a number is out of range.
    """
    if not torch.equal(first.labels, second.labels):
        raise UsageError("first and second are not of the same images; their labels differ")
    if not variants or not 0 < confidence < 1 or resamples < 1 or not len(first):
        raise UsageError(f"variants={list(variants)}, confidence={confidence}, resamples={resamples} is not allowed")
    right, other = (table.columns(variants) == table.labels[:, None] for table in (first, second))
    only_first, only_second = int((right & ~other).sum()), int((other & ~right).sum())
    gains = (right.double() - other.double()).mean(1)
    low, high = _bootstrap(gains, confidence, resamples, seed)
    p_value = mcnemar(only_first, only_second) if len(variants) == 1 else None
    return PairedDifference(float(gains.mean()), low, high, only_first, only_second, p_value)


def _bootstrap(values: Tensor, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    means, step = [], max(1, _CHUNK // len(values))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        means.append(values[torch.randint(len(values), (rows, len(values)), generator=generator)].mean(1))
    ends = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.quantile(torch.cat(means), ends).tolist()
    return low, high
