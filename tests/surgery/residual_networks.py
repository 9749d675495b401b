"""Residual blocks of every kind that `remove_residuals` reads, small."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from networks import conv_bn, randomize
from torch import Tensor, nn


class Basic(nn.Module):
    """`after(trunk(x) + shortcut(x))`."""

    def __init__(self, trunk: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk, self.shortcut, self.after = trunk, shortcut or nn.Identity(), after or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.trunk(x) + self.shortcut(x))


class PreActivation(nn.Module):
    """`conv2(relu(bn2(conv1(relu(bn1(x)))))) + shortcut`, from x, or from behind the first ReLU if it projects."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = inputs == outputs and stride == 1
        self.downsample = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut


class SqueezeExcite(nn.Module):
    """A gate on the channels, of linear layers or of 1x1 convolutions."""

    def __init__(self, channels: int, last: nn.Module, *, linear: bool = False) -> None:
        super().__init__()
        layer: Callable[..., nn.Module] = nn.Linear if linear else lambda i, o: nn.Conv2d(i, o, 1)
        self.down, self.up, self.last, self.linear = layer(channels, 2), layer(2, channels), last, linear

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3)) if self.linear else F.adaptive_avg_pool2d(x, 1)
        gate = self.last(self.up(F.relu(self.down(mean))))
        return x * (gate.view(*gate.shape[:2], 1, 1) if self.linear else gate)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, depthwise, project, and no activation behind the addition."""

    def __init__(self, channels: int, activation: Callable[[], nn.Module] = nn.ReLU6, ratio: int = 6) -> None:
        super().__init__()
        wide = channels * ratio
        expand, depthwise = conv_bn(channels, wide, 1), conv_bn(wide, wide, 3, groups=wide)
        self.conv = nn.Sequential(*expand, activation(), *depthwise, activation(), *conv_bn(wide, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class PadChannels(nn.Module):
    """Option A: every second pixel, and zero channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


def two_convolutions(inputs: int, outputs: int, stride: int = 1, activation: nn.Module | None = None) -> nn.Sequential:
    """The trunk of a basic block."""
    return nn.Sequential(*conv_bn(inputs, outputs, 3, stride), activation or nn.ReLU(), *conv_bn(outputs, outputs))


def network(*blocks: nn.Module, channels: int = 8, rectified: bool = True, seed: int = 0) -> nn.Module:
    """A stem, the blocks, and a head with a pool; random batch norms, in eval mode."""
    torch.manual_seed(seed)
    stem = [*conv_bn(3, channels), *([nn.ReLU()] if rectified else [])]
    return randomize(nn.Sequential(*stem, *blocks), seed)
