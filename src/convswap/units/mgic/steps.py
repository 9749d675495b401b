"""The blocks that an MGIC cycle runs on its levels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..support.rectifier import FreeReLU
from .levels import Level, make_divisible


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1, *, stride: int = 1, **place: Any
) -> list[nn.Module]:
    """A convolution without bias that keeps the size (up to the stride), and its BatchNorm."""
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False, **place),
        nn.BatchNorm2d(out_channels, **place),
    ]


class ResidualStep(nn.Module):
    """`relu(z + branch(z))`: ResNet's basic and bottleneck blocks.

    The coarsest bottleneck of the released code has one more rectifier, `relu(z + relu(branch(z)))`. There the branch
    ends with it.
    """

    def __init__(self, branch: nn.Sequential) -> None:
        super().__init__()
        self.branch = branch
        self.act = FreeReLU()  # a block ends with it

    def forward(self, z: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.act(z + self.branch(z))


class InvertedStep(nn.Module):
    """`relu(z + branch(z))`, or with `twice` as released, `relu(z + branch(z)) + z`.

    With MobileNet's own `z + branch(z)`, every shift behind `branch` would have no effect in training, except on the
    top level: the prolongation carries the shift as a constant, which the BatchNorm after it subtracts.
    """

    def __init__(self, branch: nn.Sequential, twice: bool) -> None:
        super().__init__()
        self.branch = branch
        self.act = FreeReLU()  # a block ends with it
        self.twice = twice

    def forward(self, z: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        y = self.act(z + self.branch(z))
        return y + z if self.twice else y


class SqueezeExcite(nn.Module):
    """`x * hardsigmoid(W2 relu(W1 mean(x) + b1) + b2)`, a factor per channel; a quarter of the channels inside."""

    def __init__(self, channels: int, **place: Any) -> None:
        super().__init__()
        squeezed = make_divisible(channels // 4)
        self.fc = nn.Sequential(
            nn.Linear(channels, squeezed, **place),
            nn.ReLU(),
            nn.Linear(squeezed, channels, **place),
            nn.Hardsigmoid(),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x_NCHW * self.fc(x_NCHW.mean((2, 3)))[:, :, None, None]


def basic_step(level: Level, kernel_size: int, **place: Any) -> ResidualStep:
    """`relu(z + BN(K2 relu(BN(K1 z))))`, both convolutions spatial and grouped."""
    c, k, groups = level.channels, kernel_size, level.groups
    return ResidualStep(
        nn.Sequential(*conv_norm(c, c, k, groups, **place), nn.ReLU(), *conv_norm(c, c, k, groups, **place))
    )


def bottleneck_step(level: Level, factor: int, kernel_size: int, extra_relu: bool, **place: Any) -> ResidualStep:
    """`relu(z + BN(K3 relu(BN(K2 relu(BN(K1 z))))))` on `factor * c` channels, K1 and K3 pointwise, all grouped."""
    c, wide, groups = level.channels, factor * level.channels, level.groups
    return ResidualStep(
        nn.Sequential(
            *conv_norm(wide, c, 1, groups, **place),
            nn.ReLU(),
            *conv_norm(c, c, kernel_size, groups, **place),
            nn.ReLU(),
            *conv_norm(c, wide, 1, groups, **place),
            *([nn.ReLU()] if extra_relu else []),
        )
    )


def inverted_step(
    level: Level, kernel_size: int, squeeze_excite: bool, activation: str, twice: bool, **place: Any
) -> InvertedStep:
    """MobileNetV3's inverted residual, pointwise convolutions grouped.

    `BN(PW act(SE(BN(DW act(BN(PW z))))))`; without expansion (mid = c) `BN(PW SE(act(BN(DW z))))`.
    """
    c, mid, groups = level.channels, level.mid, level.groups
    act = nn.Hardswish if activation == "hardswish" else nn.ReLU
    gate: list[nn.Module] = [SqueezeExcite(mid, **place)] if squeeze_excite else []
    depthwise = conv_norm(mid, mid, kernel_size, mid, **place)
    project = conv_norm(mid, c, 1, groups, **place)
    if mid == c:
        return InvertedStep(nn.Sequential(*depthwise, act(), *gate, *project), twice)
    expand = conv_norm(c, mid, 1, groups, **place)
    return InvertedStep(nn.Sequential(*expand, act(), *depthwise, *gate, act(), *project), twice)
