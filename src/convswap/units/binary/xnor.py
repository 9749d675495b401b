"""XNOR-Net: signs of the input convolved with signs of the weights (arXiv:1603.05279)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import check_choice, check_whole
from ...marks import Marked
from ...ops.binary_conv import PackedBinaryConv2d
from ...ops.signs import levels, levels_ste
from ..contract.feature import FeatureUnit
from ..contract.geometry import Geometry
from ..contract.registry import register_unit
from ..ic.group_sum import GroupSum
from .binary_weight import BinaryWeightConv2d, filter_scale
from .quantizers import check_dropout

ORDERS = ("norm_first", "host")
_EPS = 1e-4


@register_unit(
    "xnor",
    paper="arXiv:1603.05279",
    year=2016,
    summary="BatchNorm, signs of the input, convolved with one scale per filter times +-1",
    warm_start="none",
    fusion="cheaper",
    gradient="straight_through",
    default_where="!first & !output & !depthwise & !*downsample* & !*shortcut*",
    placement="paper",
    train_eval="batch_norm",
    variants=({"order": "host"}, {"input_scale": "K"}, {"gradient": "program"}, {"bits": 2}),
)
class XnorConv2d(FeatureUnit):
    """The XNOR block: BatchNorm, sign, convolution with binary weights.

    `y = conv(sign(BN(x)), alpha sign(W)) [* K] + b` with alpha and the real weights W as in `BinaryWeightConv2d`
    (including `constrain_()` of the inner convolution). The sign is +1 from 0 on, -1 for NaN. Its gradient is passed
    straight through where |BN(x)| < 1. Zero padding pads the signs: nothing is added outside the image.

    The paper's order of a block is BatchNorm - sign - convolution - (ReLU) - pool, so a unit brings the BatchNorm in
    front of its sign. A swap removes the host's BatchNorm behind the unit if only other XNOR units read the result
    (through ReLU, pooling, dropout). `conv - BN - ReLU` chains thus become `BN - sign - conv - ReLU` chains. Before a
    sum or a full-precision layer the BatchNorm stays.

    By default all convolutions are replaced except the first, the last layer if it is a convolution, the 1x1
    convolutions of shortcuts (by their names, `downsample` or `shortcut`) and depthwise ones (supported, but slow).

    A trained function is not kept (`warm_start="none"`), because the sign of a rectified map is +1 everywhere.

    Args:
        order: `"norm_first"`, with the BatchNorm (eps 1e-4) in front of the sign, or `"host"`, without it: the unit
            takes the input's own signs, and the host's BatchNorm and ReLU stay where they are.
        input_scale: `"none"`, as in both public programs, or `"K"`, the paper's map: the mean of |BN(x)| over a group's
            channels, then over the kernel's window with the same stride, padding and dilation (a constant box filter).
        bits: 1 for signs; up to 8 for the 2^bits evenly spaced levels from -1 to 1 that the paper gives as the
            generalisation. Weights stay binary.
        gradient, center: those of `BinaryWeightConv2d`.
        dropout: probability to drop a sign in training, between sign and convolution, as in the public CIFAR network.

    The other arguments are those of `nn.Conv2d`.

    Raises:
        ValueError: an option is not allowed.
    """

    def setup(
        self,
        *,
        order: str = "norm_first",
        input_scale: str = "none",
        bits: int = 1,
        gradient: str = "chain",
        center: bool = True,
        dropout: float = 0.0,
    ) -> None:
        """Check the options and build the unit; see the class."""
        check_choice("order", order, ORDERS)
        check_choice("input_scale", input_scale, ("none", "K"))
        check_whole("bits", bits, 1, 8)
        check_dropout(dropout)
        place = self.place
        self.order, self.input_scale, self.bits, self.dropout = order, input_scale, bits, dropout
        self.bn = nn.BatchNorm2d(self.in_channels, eps=_EPS, **place) if order == "norm_first" else None
        self.conv = BinaryWeightConv2d(**self.geometry.arguments(), gradient=gradient, center=center, **place)
        self.window_sum = GroupSum(self.geometry) if input_scale == "K" else None

    @classmethod
    def normalizes_input(cls, order: str = "norm_first", **options: Any) -> bool:
        """Does the unit begin with a BatchNorm? If so, a swap removes the host's where it has nothing left to do."""
        return order == "norm_first"

    @property
    def weight(self) -> Tensor:
        """The real weights (out, in/groups, kH, kW) that are trained."""
        return self.conv.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias (out,), or None."""
        return self.conv.bias

    def effective_weight(self) -> Tensor:
        """`alpha sign(W)`: (out_channels, in_channels/groups, kH, kW)."""
        return self.conv.effective_weight()

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        x = input if self.bn is None else self.bn(input)
        s = levels_ste(x, self.bits)
        if self.dropout:
            s = nn.functional.dropout(s, self.dropout, self.training)
        if self.window_sum is None:
            return self.conv(s)
        weight = self.effective_weight().to(self.weight.dtype)
        return _scaled_by_input(self.window_sum, x, s, weight, self.bias)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """The inference form: one bit a weight, the BatchNorm folded into thresholds (`PackedBinaryConv2d`).

        More than one bit gives a `FusedLevels` around a plain convolution. Either form absorbs a BatchNorm behind it.

        Raises:
            FusionError: the BatchNorm keeps no running statistics.
        """
        train = self.training
        if self.bits > 1:
            return FusedLevels(copy.deepcopy(self.bn), self.conv.fuse(), self.bits, self.input_scale).train(train)
        g = Geometry.of(self.conv)
        return PackedBinaryConv2d.from_weight(
            self.weight,
            filter_scale(self.weight.double()),
            self.bias,
            stride=g.stride,
            padding=g.padding,
            dilation=g.dilation,
            groups=g.groups,
            padding_mode=g.padding_mode,
            norm=self.bn,
            input_scale=self.input_scale,
        ).train(train)


class FusedLevels(Marked, nn.Module):
    """The inference form of an `XnorConv2d` of several bits: `conv(q(BN(x))) [* K] + b` with a plain convolution."""

    marked_settings = ("bits", "input_scale")

    def __init__(self, bn: nn.BatchNorm2d | None, conv: nn.Conv2d, bits: int, input_scale: str) -> None:
        super().__init__()
        self.bn, self.conv, self.bits, self.input_scale = bn, conv, bits, input_scale
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.window_sum = GroupSum(Geometry.of(conv)) if input_scale == "K" else None

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        x = input if self.bn is None else self.bn(input)
        s = levels(x, self.bits)
        if self.window_sum is None:
            return self.conv(s)
        return _scaled_by_input(self.window_sum, x, s, self.conv.weight, self.conv.bias)

    def extra_repr(self) -> str:
        """The number of bits and whether there is K."""
        return f"bits={self.bits}, input_scale={self.input_scale!r}"


def _scaled_by_input(window_sum: GroupSum, x: Tensor, s: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`conv(s) * K + bias`, K (N, groups, H', W') being the mean of |x| over a group's channels and the window."""
    y = window_sum.convolve(s, weight, None)
    scale = window_sum(x.abs()) / weight[0].numel()
    if scale.shape[1] > 1:
        scale = scale.repeat_interleave(y.shape[1] // scale.shape[1], 1)
    y = y * scale.to(y.dtype)
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]
