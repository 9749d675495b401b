"""What the functions of this room take: numbers of a sample, and settings within their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError, check_number

Array = NDArray[np.float64]
Values: TypeAlias = Sequence[float] | Array


def sample(name: str, values: Values, least: int = 1) -> Array:
    """The values as float64 (n,).

    Raises:
        UsageError: there are fewer than `least`, one is not a finite number, or they are not a flat list.
    """
    try:
        data = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}={values!r} is not allowed; give numbers, one for each seed") from error
    if data.ndim != 1 or data.size < least or not np.isfinite(data).all():
        wanted = "at least one finite number" if least == 1 else f"at least {least} finite numbers"
        raise UsageError(f"{name}={values!r} is not allowed; give {wanted}")
    return data


def share(name: str, value: float, example: float) -> float:
    """A number strictly between 0 and 1, such as a confidence.

    Raises:
        UsageError: it is not.
    """
    return check_number(name, value, lambda v: 0 < v < 1, f"a number between 0 and 1, such as {example}")


def positive(name: str, value: float) -> float:
    """A number above 0.

    Raises:
        UsageError: it is not.
    """
    return check_number(name, value, lambda v: v > 0, "a number above 0")


def deviation(data: Array) -> float:
    """The sample deviation (n - 1). It is 0 exactly for equal values, where rounding of the mean would leave a rest."""
    return 0.0 if (data == data[0]).all() else float(data.std(ddof=1))
