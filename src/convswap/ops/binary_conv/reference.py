"""The binary convolution as its formula reads: signs, a convolution, scales. In plain torch, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..signs import sign_ste

_FLOAT_EXACT = 2**24  # float32 holds every integer up to here


def count_dots(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """The convolution of two tensors of +-1, zeros at the padding: integers, exact, as float32 (or float64).

    Args:
        x: (N, in, H, W) of +-1.
        weight: (out, in/groups, kH, kW) of +-1.
        stride, dilation: (rows, columns).
        padding: zeros at (left, right, top, bottom).
        groups: as in `F.conv2d`.
    """
    left, right, top, bottom = padding
    if (left, top) != (right, bottom):
        x, left, top = F.pad(x, tuple(padding)), 0, 0
    if weight[0].numel() >= _FLOAT_EXACT:
        x, weight = x.double(), weight.double()
    # Algorithms that transform their operands (Winograd) miss the integers by rounding errors far below 0.5.
    return _Round.apply(F.conv2d(x, weight, None, tuple(stride), (top, left), tuple(dilation), groups))


class _Round(torch.autograd.Function):
    """To the nearest integer; the gradient passes."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def epilogue(
    dots: Tensor, scale: Tensor | None, bias: Tensor | None, map_: Tensor | None = None, relu: bool = False
) -> Tensor:
    """`relu?(dots * scale * map + bias)`, every step rounded to the precision of dots.

    scale and bias are (out,), map is (N, H', W').
    """
    y = dots
    if scale is not None:
        y = y * scale[:, None, None]
    if map_ is not None:
        y = y * map_[:, None]
    if bias is not None:
        y = y + bias[:, None, None]
    return y.relu() if relu else y


def binary_conv2d_reference(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    map_: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    relu: bool = False,
) -> Tensor:
    """`relu?(scale[o] * map[n, p] * sum_c sum_t sign(weight[o, c, t]) sign(x[n, c, s p + d t - pad]) + bias[o])`.

    sign(v) is +1 for v >= 0, else -1; padding contributes 0. The sum is an integer and exact. Differentiable: the
    signs pass the gradient where the argument is inside (-1, 1) (the clipped straight-through estimator).

    Args:
        x: (N, in, H, W), of any floating precision.
        weight: (out, in/groups, kH, kW); its signs count.
        scale, bias: (out,) or None.
        map_: (N, H', W'), one more factor for each pixel, or None.
        stride, dilation: (rows, columns).
        padding: zeros at (left, right, top, bottom), as `F.pad` takes them.
        groups: as in `F.conv2d`.
        relu: whether a rectifier follows.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    dots = count_dots(sign_ste(x).to(dtype), sign_ste(weight).to(dtype), stride, padding, dilation, groups).to(dtype)
    return epilogue(dots, scale, bias, map_, relu)
