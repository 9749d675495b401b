"""Corrections of p-values for several comparisons."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UsageError


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979), in the order given: the chance of *any* false claim stays below the level.

    The k-th smallest of m becomes max over j <= k of (m - j + 1) p_(j), at most 1.

    Raises:
        UsageError: a value outside 0..1.

    >>> holm([0.5, 0.25])
    [0.5, 0.5]
    """
    p = _checked(p_values)
    adjusted, running = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = running
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """The step-up correction of Benjamini and Hochberg (1995): the expected *share* of false claims stays below it.

    The k-th smallest of m becomes min over j >= k of (m / j) p_(j), at most 1. It finds more than Holm's correction and
    promises less. It holds for independent tests, and for positively dependent ones, as those against one baseline are.

    Raises:
        UsageError: a value outside 0..1.

    >>> benjamini_hochberg([0.5, 0.25])
    [0.5, 0.5]
    """
    p = _checked(p_values)
    adjusted, running = [0.0] * len(p), 1.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__, reverse=True)):
        running = min(running, len(p) / (len(p) - rank) * p[index])
        adjusted[index] = running
    return adjusted


def _checked(p_values: Sequence[float]) -> list[float]:
    p = [float(value) for value in p_values]
    if any(not 0 <= value <= 1 for value in p):
        raise UsageError(f"p_values={p} is not allowed; every p-value lies between 0 and 1")
    return p
