"""Blocks of parallel branches that `fuse` makes one 3x3 convolution: RepVGG's, and RMNet's with reserved channels.

`RepBlock` (arXiv:2101.03697): `y = relu(BN(W3 x) + BN(W1 x) + BN(x))`, the last term where the shape stays.

`ReservedRepBlock` (arXiv:2111.00687) hands its first R channels on untouched and adds new maps behind them:
`y = relu(cat(x[:R], BN(W3 x) + BN(W1 x) + BN(x[R:])))`. The channels that pass are a residual connection which costs
nothing once fused: they are rows of the 3x3 convolution with a single 1.

Parameter names are those of fxmeng/RMNet (`conv33`, `bn33`, `conv11`, `bn11`, `bn00`, `se`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.batch_norm import batch_norm_affine
from ..surgery import algebra
from ..units.contract.geometry import Geometry, plain_conv


class SqueezeExcite(nn.Module):
    """A gate for each channel but the first `reserved` ones, which pass.

    The gate is `sigmoid(up(relu(down(mean(x)))))`, of all channels, for those that are not reserved.
    """

    def __init__(self, channels: int, *, reserved: int = 0, reduction: int = 16, **place: Any) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.reserved = reserved
        self.down = nn.Conv2d(channels, inner, 1, **place)
        self.up = nn.Conv2d(inner, channels - reserved, 1, **place)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        gate_NC11 = self.up(self.down(x_NCHW.mean((2, 3), keepdim=True)).relu()).sigmoid()
        if not self.reserved:
            return gate_NC11 * x_NCHW
        return torch.cat([x_NCHW[:, : self.reserved], gate_NC11 * x_NCHW[:, self.reserved :]], 1)


class _Branches(nn.Module):
    """Parallel branches from `in_channels` to `made` maps; the identity reads the last `made` input channels."""

    def __init__(self, in_channels: int, made: int, stride: int, identity: bool) -> None:
        super().__init__()
        self.conv33 = nn.Conv2d(in_channels, made, 3, stride, 1, bias=False)
        self.bn33 = nn.BatchNorm2d(made)
        self.conv11 = nn.Conv2d(in_channels, made, 1, stride, bias=False)
        self.bn11 = nn.BatchNorm2d(made)
        self.bn00 = nn.BatchNorm2d(made) if identity else None

    def branches(self, x_NCHW: Tensor) -> Tensor:
        """The sum of the branches."""
        y_NCHW = self.bn33(self.conv33(x_NCHW)) + self.bn11(self.conv11(x_NCHW))
        if self.bn00 is not None:
            y_NCHW = y_NCHW + self.bn00(x_NCHW[:, -self.bn00.num_features :])
        return y_NCHW

    def can_fuse(self) -> bool:
        """Are both convolutions plain and padded as built? A unit in the place of one may be anything."""
        plain = type(self.conv33) is nn.Conv2d and type(self.conv11) is nn.Conv2d
        norms = (self.bn33, self.bn11, *([] if self.bn00 is None else [self.bn00]))
        return plain and all(isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) for norm in norms)

    def kernel(self) -> algebra.Kernel:
        """The 3x3 kernel of the sum, in float64."""
        third = self.conv33.weight.detach().double()
        first = algebra.embed_kernel(self.conv11.weight.detach().double(), (0, 0), (1, 1), (3, 3), (1, 1))
        parts = [(third, self.conv33.bias, self.bn33), (first, self.conv11.bias, self.bn11)]
        if self.bn00 is not None:
            inputs = self.conv33.in_channels
            identity = algebra.identity_kernel(inputs, 1, (3, 3), like=third)[inputs - self.bn00.num_features :]
            parts.append((identity, None, self.bn00))
        kernels = []
        for weight, bias, norm in parts:
            bias = None if bias is None else bias.detach().double()
            kernels.append(algebra.scale_outputs(weight, bias, *batch_norm_affine(norm)))
        return algebra.add_branches(kernels)

    def one_convolution(self, weight: Tensor, bias: Tensor) -> nn.Conv2d:
        """The fused convolution, in the dtype and on the device of the block."""
        return plain_conv(Geometry.of(self.conv33), weight, bias, like=self.conv33.weight, train=self.training)


class RepBlock(_Branches):
    """RepVGG's block, (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, stride, stride == 1 and in_channels == out_channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The rectified sum of the branches."""
        return self.branches(x_NCHW).relu()

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """One 3x3 convolution and a ReLU, equal in evaluation. The block itself where units stand in it."""
        return deployed(self.one_convolution(*self.kernel())) if self.can_fuse() else self


class ReservedRepBlock(_Branches):
    """RMNet's block, (N, C, H, W) -> (N, C, H, W), whose first `int(C * ratio)` channels are handed on.

    Args:
        channels: C.
        ratio: the share of reserved channels, at least 0 and below 1.
        squeeze_excite: a gate on the channels that are not reserved.
    """

    def __init__(self, channels: int, ratio: float, *, squeeze_excite: bool = False) -> None:
        reserved = int(channels * ratio)
        super().__init__(channels, channels - reserved, 1, identity=True)
        self.reserved = reserved
        self.se = SqueezeExcite(channels, reserved=reserved) if squeeze_excite else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The reserved channels, and the sum of the branches behind them, rectified."""
        y_NCHW = torch.cat([x_NCHW[:, : self.reserved], self.branches(x_NCHW)], 1)
        return (y_NCHW if self.se is None else self.se(y_NCHW)).relu()

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """One 3x3 convolution (with the gate behind it) and a ReLU. The block itself where units stand in it."""
        if not self.can_fuse():
            return self
        weight, bias = self.kernel()
        rows = algebra.identity_kernel(weight.shape[1], 1, (3, 3), like=weight)[: self.reserved]
        conv = self.one_convolution(torch.cat([rows, weight]), torch.cat([bias.new_zeros(self.reserved), bias]))
        return deployed(conv, self.se)


def deployed(conv: nn.Conv2d, gate: nn.Module | None = None) -> nn.Sequential:
    """The inference form of a block."""
    parts = {"conv": conv, **({} if gate is None else {"se": gate}), "act": nn.ReLU()}
    return nn.Sequential(OrderedDict(parts)).train(conv.training)
