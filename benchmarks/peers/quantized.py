"""Binary layers as one would write them down: HardTanh and the sign by detaching, random signs by `torch.bernoulli`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convswap.units import Geometry


class Quantized(nn.Module):
    """BinaryNet's convolution: signs of the clipped input, signs of the weights, the weight's gradient unchanged."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        if (unit.weight_bits, unit.activation_bits) != (1, 1):
            raise ValueError("this peer is written for one bit only")
        self.geometry, self.weight, self.bias = Geometry.of(unit), unit.weight, unit.bias

    def sign(self, x: Tensor) -> Tensor:
        """+1 from 0 on, else -1."""
        return (x >= 0).to(x.dtype) * 2 - 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W'), zero padding."""
        g = self.geometry
        line = F.hardtanh(x)
        signs = self.sign(line).detach() + line - line.detach()
        weight = Quantized.sign(self, self.weight).detach() + self.weight - self.weight.detach()
        return F.conv2d(signs, weight, self.bias, g.stride, g.padding, g.dilation, g.groups)


class StochasticQuantized(Quantized):
    """BinaryNet's convolution; in training, a sign of the input is +1 with the probability of a hard sigmoid."""

    def sign(self, x: Tensor) -> Tensor:
        """+1 with probability (x + 1)/2 in training."""
        return torch.bernoulli((x + 1) / 2) * 2 - 1 if self.training else super().sign(x)
