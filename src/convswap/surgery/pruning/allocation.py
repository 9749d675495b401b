"""How many elements each group loses until a target is met."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from .costs import CostModel
from .redundancy import Redundancy

GOLDEN = (5**0.5 - 1) / 2
STEPS = 64
"""The layer stage takes a layer's channels in at most this many steps."""

Order = Iterator[tuple[int, int]]
"""Groups, and how many more elements of each to take, one step after the other."""


def uniform(sizes: Sequence[int]) -> Order:
    """The same share of every group, one element at a time. Groups of one size take turns."""
    events = [((k + (i * GOLDEN) % 1) / size, i) for i, size in enumerate(sizes) for k in range(size)]
    return ((index, 1) for _, index in sorted(events))


def by_importance(scores: Sequence[Tensor]) -> Order:
    """The least important elements of the whole network, whatever their layer."""
    events = [(value, index) for index, score in enumerate(scores) for value in score.tolist()]
    return ((index, 1) for _, index in sorted(events))


def by_error(found: Sequence[Redundancy], costs: CostModel, what: str, lost: list[int], most: Sequence[int]) -> Order:
    """The layer stage: always from the layer with the smallest predicted error for what it saves.

    Args:
        found: the redundancy of each group.
        costs: what a group saves.
        what: `"macs"` or `"parameters"`.
        lost: what each group has lost so far, which the caller keeps up to date.
        most: how much each group may lose.
    """
    prices: dict[int, tuple[float, int]] = {}
    while True:
        for index, redundancy in enumerate(found):
            step = min(max(1, len(redundancy.errors) // STEPS), most[index] - lost[index])
            if step > 0 and index not in prices:
                error = sum(redundancy.errors[lost[index] : lost[index] + step])
                prices[index] = error / max(costs.saving(what, index, lost, step), 1e-9), step
        if not prices:
            return
        chosen = min(prices, key=lambda index: (prices[index][0], index))
        yield chosen, prices[chosen][1]
        for index in costs.neighbours[chosen]:
            prices.pop(index, None)


def take(order: Order, lost: list[int], most: Sequence[int], reached: Callable[[Sequence[int]], bool]) -> bool:
    """Take elements in this order until the target is reached. `lost` is changed. Returns whether it was reached."""
    if reached(lost):
        return True
    for index, count in order:
        if lost[index] + count <= most[index]:
            lost[index] += count
            if reached(lost):
                return True
    return False


def whole_steps(size: int, lost: int, step: int) -> int:
    """The largest loss of at most `lost` elements out of `size` that keeps a multiple of `step`, or everything.

    >>> [whole_steps(27, lost, 8) for lost in (0, 2, 3, 10, 11, 26)]
    [0, 0, 3, 3, 11, 19]
    """
    return size - min(size, -(-(size - lost) // step) * step)
