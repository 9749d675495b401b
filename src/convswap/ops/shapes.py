"""The output size of a convolution, the same for every operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def output_size(
    size: Sequence[Any],
    kernel: Sequence[Any],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Any, Any]:
    """(rows, columns) of the output; sizes may be symbols. padding is (left, right, top, bottom).

    >>> output_size((7, 9), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    (4, 5)
    """
    left, right, top, bottom = padding
    rows = (size[0] + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    columns = (size[1] + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    return rows, columns
