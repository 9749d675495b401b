"""The options that several methods share."""

from __future__ import annotations

from ...errors import check_number


def check_rate(option: str, value: object, *, zero: bool = False) -> None:
    """A probability to drop: above 0 (or 0 too) and below 1.

    Raises:
        UsageError: it is not.
    """
    if zero:
        check_number(option, value, lambda v: 0 <= v < 1, "a probability from 0 to below 1")
    else:
        check_number(option, value, lambda v: 0 < v < 1, "a probability above 0 and below 1")
