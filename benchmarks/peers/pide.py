"""The Hamiltonian block and the nonlocal block as one would write them down, the kernel as a matrix of all pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Hamiltonian(nn.Module):
    """Two halves of the channels; every convolution and its transpose from the formula."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.convs, self.norms = nn.ModuleList([unit.conv1, unit.conv2]), nn.ModuleList([unit.bn1, unit.bn2])
        self.step = unit.step

    def push(self, index: int, x: Tensor) -> Tensor:
        """`K^T relu(BN(K x + b)) + b`."""
        conv = self.convs[index]
        y = F.relu(self.norms[index](F.conv2d(x, conv.weight, conv.bias, padding=1)))
        return F.conv_transpose2d(y, conv.weight, padding=1) + conv.bias[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        y, z = x.chunk(2, 1)
        y = y + self.step * self.push(0, z)
        z = z - self.step * self.push(1, y)
        return torch.cat([y, z], 1)


class DensePIDE(nn.Module):
    """The dot-product kernel as the official code has it: the matrix of all pairs of pixels, then its products."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.theta, self.phi, self.stages = unit.theta, unit.phi, unit.stages
        self.scale, self.step, self.pool = unit.scale, unit.step, nn.MaxPool2d(unit.subsample)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        theta, phi = self.theta(x).flatten(2), self.pool(self.phi(x)).flatten(2)
        w = self.scale * theta.transpose(1, 2) @ phi
        u = x
        for stage in self.stages:
            summed = w @ self.pool(u).flatten(2).transpose(1, 2)
            change = (summed - u.flatten(2).transpose(1, 2) * w.sum(2, keepdim=True)) / phi.shape[2]
            u = x + self.step * stage(change.transpose(1, 2).reshape(x.shape))
        return u
