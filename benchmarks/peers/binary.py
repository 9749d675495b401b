"""Binary weights and the XNOR unit as one would write them down: signs by `torch.sign`, gradients by detaching."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convswap.units import Geometry


def straight_sign(x: Tensor) -> Tensor:
    """`torch.sign`, whose gradient is that of a clamp to [-1, 1]."""
    line = x.clamp(-1, 1)
    return torch.sign(x).detach() + line - line.detach()


class BinaryWeight(nn.Module):
    """The mean magnitude of each filter times its signs, then a convolution."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.geometry, self.weight, self.bias = Geometry.of(unit), unit.weight, unit.bias

    def binary(self) -> Tensor:
        """`alpha sign(W)`."""
        return self.weight.abs().mean((1, 2, 3), keepdim=True) * straight_sign(self.weight)

    def forward(self, x: Tensor, bias: bool = True) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W'), zero padding."""
        g = self.geometry
        added = self.bias if bias else None
        return F.conv2d(x, self.binary(), added, g.stride, g.padding, g.dilation, g.groups)


class Xnor(nn.Module):
    """BatchNorm, signs, the convolution of signs; K by a convolution of the mean magnitude with a box."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.bn, self.conv, self.scaled = unit.bn or nn.Identity(), BinaryWeight(unit.conv), unit.input_scale == "K"

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W'), one group where K is asked for."""
        x = self.bn(x)
        if not self.scaled:
            return self.conv(straight_sign(x))
        g = self.conv.geometry
        box = torch.full((1, 1, *g.kernel_size), 1 / (g.kernel_size[0] * g.kernel_size[1]), dtype=x.dtype)
        scale = F.conv2d(x.abs().mean(1, keepdim=True), box.to(x.device), None, g.stride, g.padding, g.dilation)
        y = self.conv(straight_sign(x), bias=False) * scale
        return y if self.conv.bias is None else y + self.conv.bias[:, None, None]
