"""Images of more than 8 bits: which of their values is white is found over the whole data set, never file by file.

Cameras and scanners store 10, 12 or 14 bits in files of 16, and floats in any range. A file alone cannot tell a dark
image from one of fewer bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import DataError

_BITS = (8, 10, 12, 14, 16)


@dataclass(frozen=True)
class Scale:
    """How wide values become bytes.

    Attributes:
        white: the value that becomes 255; black is 0.
        whole: whether the values are whole numbers, of which the upper 8 bits are kept. Others are rounded.
        text: what is said of it, such as `"values 0..4080: read as 12 bit"`.
    """

    white: int
    whole: bool
    text: str

    def to_bytes(self, values: np.ndarray) -> np.ndarray:
        """The values as uint8. Those outside of 0 ... `white` are clipped."""
        clipped = values.astype(np.float64).clip(0, self.white)
        if self.whole and self.white > 1:
            return np.floor(clipped * (256 / (self.white + 1))).astype(np.uint8)
        return np.rint(clipped * (255 / self.white)).astype(np.uint8)


def find_scale(low: float, high: float, *, whole: bool, source: str) -> Scale:
    """The scale for a data set whose values lie in `low` ... `high`.

    Raises:
        DataError: no usual range fits. The message names `source` and the way out.

    >>> find_scale(0, 4080, whole=True, source="photos").text
    'values 0..4080: read as 12 bit'
    """
    said = f"values {low:.6g}..{high:.6g}"
    if low >= 0 and high <= 1:
        return Scale(1, whole, f"{said}: read as 0..1")
    # A float image of 0..2.5 is no dark image of 0..255.
    least = 0 if whole else 127.5
    bits = next((bits for bits in _BITS if high <= 2**bits - 1), None)
    if low < 0 or bits is None or high <= least:
        wanted = "0..255, 0..1023, 0..4095, 0..16383 or 0..65535"
        raise DataError(
            f"{source}: {said} of {'whole numbers' if whole else 'floats'} have no usual range ("
            f"{wanted if whole else f'0..1, {wanted}'}); store them in one, e.g. ((x - low) / (high - low) * "
            "65535).astype('uint16') with low and high of the whole data set"
        )
    return Scale(2**bits - 1, whole, f"{said}: read as {bits} bit")
