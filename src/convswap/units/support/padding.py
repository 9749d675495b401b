"""The padding of a convolution in pixels, "same" and "valid" included, and convolving with any padding mode."""

from __future__ import annotations

from typing import cast

from torch import Tensor
from torch.nn import functional as F

from ..contract.geometry import Geometry

Margins = tuple[int, int, int, int]


def margins(kernel_size: tuple[int, ...], dilation: tuple[int, ...], padding: tuple[int, ...] | str) -> Margins:
    """Pixels around the input as `F.pad` takes them: (left, right, top, bottom)."""
    (kh, kw), (dh, dw) = kernel_size, dilation
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        rows, columns = dh * (kh - 1), dw * (kw - 1)
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
    ph, pw = cast(tuple[int, int], padding)
    return pw, pw, ph, ph


def pad(x: Tensor, around: tuple[int, ...], padding_mode: str) -> Tensor:
    """x with these margins filled as `nn.Conv2d`'s padding mode says; x itself if there are none."""
    return F.pad(x, around, mode="constant" if padding_mode == "zeros" else padding_mode) if any(around) else x


def convolve(geometry: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of this geometry with a weight and bias: (N, in, H, W) -> (N, out, H', W')."""
    g = geometry
    if g.padding_mode == "zeros":
        return F.conv2d(x, weight, bias, g.stride, g.padding, g.dilation, g.groups)
    around = margins(g.kernel_size, g.dilation, g.padding)
    return F.conv2d(pad(x, around, g.padding_mode), weight, bias, g.stride, 0, g.dilation, g.groups)
