"""By what rule a claim holds: fixed here, before and apart from what is measured.

Every claim is made a statement on one number, "it is above (below) a bound", and the number has an interval:

- of one given network: kernels drawn anew within each of their layers (bootstrap, 95 %), or, for a comparison of
  layers, a permutation test over the layers at 5 %;
- of networks trained here: Student's 95 % interval over the training seeds, of the difference where two networks (or a
  network and its own start) are paired by the seed.

A claim about several networks stands as all of them say; where they do not agree it is not decided.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from convswap.measure.statistics import mean_interval, permutation_p_value

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
LEVEL = 0.05
RESAMPLES = 2000


@dataclass(frozen=True)
class Number:
    """A measured number with the interval that decides; None where the values give no interval.

    Attributes:
        value: the estimate.
        low, high: its interval.
        basis: what was drawn anew or repeated: `kernels`, `layers`, `seeds`.
        count: how many of them there are.
        p: of a permutation test, which then decides instead of the interval.
    """

    value: float
    low: float | None
    high: float | None
    basis: str
    count: int
    p: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def verdict(number: Number, direction: str, bound: float) -> str:
    """Does "the number is `direction` (`above` or `below`) the bound" hold?

    >>> verdict(Number(0.3, 0.25, 0.35, "kernels", 100), "above", 0.2)
    'holds'
    >>> verdict(Number(0.3, 0.1, 0.5, "seeds", 3), "above", 0.2)
    'not decided'
    """
    if direction not in ("above", "below"):
        raise ValueError(f"direction={direction!r} is not allowed; choose above or below")
    wanted = number.value > bound if direction == "above" else number.value < bound
    if number.p is not None:
        return (HOLDS if wanted else FAILS) if number.p < LEVEL else OPEN
    if number.low is None or number.high is None or number.low <= bound <= number.high:
        return OPEN
    return HOLDS if wanted else FAILS


def together(verdicts: Sequence[str]) -> str:
    """What all networks say, else that it is not decided.

    >>> together(["holds", "not decided"])
    'not decided'
    """
    return verdicts[0] if len(set(verdicts)) == 1 else OPEN


def over_seeds(values: Sequence[float]) -> Number:
    """The mean over training seeds with Student's interval."""
    found = mean_interval(values)
    return Number(found.mean, found.low, found.high, "seeds", found.n)


def over_kernels(layers: Sequence[Tensor], statistic: Callable[[Sequence[Tensor]], float], seed: int = 0) -> Number:
    """A statistic of layers, each (kernels, ..), with its bootstrap interval: kernels are drawn within their layer."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(RESAMPLES):
        picks = [torch.randint(len(layer), (len(layer),), generator=generator) for layer in layers]
        drawn.append(statistic([layer[pick] for layer, pick in zip(layers, picks, strict=True)]))
    low, high = torch.tensor(drawn, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return Number(statistic(layers), float(low), float(high), "kernels", sum(len(layer) for layer in layers))


def between_layers(first: Sequence[float], second: Sequence[float]) -> Number:
    """Mean of some layers minus mean of others, with the permutation test over layers."""
    value = sum(first) / len(first) - sum(second) / len(second)
    p = permutation_p_value(list(first), list(second))
    return Number(value, None, None, "layers", len(first) + len(second), p)


def spearman(values: Sequence[float]) -> float:
    """Rank correlation of values with their place in the list; ties share their mean rank. 0 where all are equal.

    >>> spearman([3.0, 2.0, 1.0])
    -1.0
    """
    x, y = _ranks(list(range(len(values)))), _ranks(values)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x.square().sum() * y.square().sum()))
    return float((x * y).sum()) / scale if scale else 0.0


def trend(values: Sequence[float], draws: int = 20_000, seed: int = 0) -> Number:
    """`spearman` with a two-sided permutation test: exact up to eight layers, by random orders above."""
    observed, n = spearman(values), len(values)
    generator = torch.Generator().manual_seed(seed)
    if n <= 8:
        orders: Any = itertools.permutations(range(n))
        extreme = total = 0
    else:
        orders = (torch.randperm(n, generator=generator).tolist() for _ in range(draws))
        extreme = total = 1  # the observed order is one of them, so p is never zero
    for order in orders:
        extreme += abs(spearman([values[i] for i in order])) >= abs(observed) - 1e-12
        total += 1
    return Number(observed, None, None, "layers", n, extreme / total)


def _ranks(values: Sequence[float]) -> Tensor:
    x = torch.tensor(list(values), dtype=torch.float64)
    return (x[:, None] > x).double().sum(1) + (x[:, None] == x).double().sum(1) / 2
