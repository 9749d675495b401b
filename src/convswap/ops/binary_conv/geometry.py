"""Shapes of a binary convolution, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...errors import UsageError
from ..shapes import output_size
from .packing import weight_shape, words_for


class CallGeometry(NamedTuple):
    """The geometry of one call. A layer, whose inputs may have any size, has a `LayerGeometry`."""

    images: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    out_size: tuple[int, int]
    empty: bool


def check_groups(in_channels: int, out_channels: int, groups: int) -> None:
    """Raise a `UsageError` if the groups do not divide the channels."""
    if groups < 1 or in_channels % groups or out_channels % groups or in_channels < 1 or out_channels < 1:
        raise UsageError(f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}")


def geometry_of(
    words: Sequence[int],
    weight: Sequence[int],
    in_channels: int,
    out_channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> CallGeometry:
    """The geometry of a call.

    Raises:
        ValueError: the packed operands do not have those channels, a number is out of range, or the kernel is larger
            than the padded input.
    """
    check_groups(in_channels, out_channels, groups)
    if len(weight) != 6 or tuple(weight) != weight_shape(out_channels, in_channels, tuple(weight[2:4]), groups):  # type: ignore[arg-type]
        raise UsageError(
            f"weight of shape {tuple(weight)} is not the packed weight of {in_channels} input and {out_channels} "
            f"output channels in {groups} groups; pack_weight makes it"
        )
    if len(words) != 4 or words[3] != groups * words_for(in_channels // groups):
        raise UsageError(
            f"words of shape {tuple(words)} are not the packed activations of {in_channels} channels in {groups} "
            f"groups; give (N, H, W, {groups * words_for(in_channels // groups)})"
        )
    for name, numbers, least in (("stride", stride, 1), ("dilation", dilation, 1), ("padding", padding, 0)):
        if min(numbers) < least:
            raise UsageError(f"{name}={tuple(numbers)} is not allowed; give numbers of at least {least}")
    images, size, kernel = words[0], (words[1], words[2]), (weight[2], weight[3])
    rows, columns = output_size(size, kernel, stride, padding, dilation)
    if (rows < 1 and size[0] > 0) or (columns < 1 and size[1] > 0):
        raise UsageError(f"an input of {size[0]}x{size[1]} is too small for the kernel {kernel[0]}x{kernel[1]} "
                         f"with padding={tuple(padding)} and dilation={tuple(dilation)}")  # fmt: skip
    rows, columns = max(rows, 0), max(columns, 0)
    return CallGeometry(
        images, size, kernel, (rows, columns), not (images and rows and columns and size[0] and size[1])
    )
