"""The parts of VGNet's blocks (arXiv:2207.10318): activation before BatchNorm, and a channel gate."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import check_choice, check_number
from ..contract.geometry import Geometry, plain_conv
from ..contract.weight import WeightUnit
from ..support.folding import batch_norm_affine
from .fixed import FixedConv2d

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": lambda: nn.ReLU(inplace=True), "silu": nn.SiLU}


def make_activation(activation: str) -> nn.Module:
    """The activation by name: `"relu"` (the code at the time of the paper) or `"silu"` (the code of 2022 on).

    Raises:
        ValueError: no such name.
    """
    check_choice("activation", activation, ACTIVATIONS)
    return ACTIVATIONS[activation]()


def check_ratio(squeeze_excite: object) -> float:
    """The ratio of a channel gate: a number from 0 (no gate) to 1.

    Raises:
        ValueError: any other value.
    """
    wanted = "a number from 0 (no gate) to 1"
    return float(check_number("squeeze_excite", squeeze_excite, lambda share: 0 <= share <= 1, wanted))


def gate_channels(channels: int, ratio: float) -> int:
    """The hidden channels of a gate: the whole part of `ratio * channels`, rounded to a multiple of 8, at least 8.

    One multiple more if rounding would lose more than a tenth.

    >>> gate_channels(28, 0.25), gate_channels(184, 0.25), gate_channels(44, 0.25)
    (8, 48, 16)
    """
    wanted = math.floor(ratio * channels)
    rounded = max(8, (wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class SqueezeExcite(nn.Module):
    """A channel gate: `x * sigmoid(expand(act(reduce(mean of x over its pixels))))`, both 1x1 with a bias."""

    def __init__(self, channels: int, ratio: float, activation: str, **place: Any) -> None:
        super().__init__()
        hidden = gate_channels(channels, ratio)
        self.reduce = nn.Conv2d(channels, hidden, 1, **place)
        self.act = make_activation(activation)
        self.expand = nn.Conv2d(hidden, channels, 1, **place)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        mean = x_NCHW.mean((2, 3), keepdim=True)
        return x_NCHW * self.expand(self.act(self.reduce(mean))).sigmoid()


class ConvActNorm(nn.Module):
    """A convolution without bias, **then the activation, then BatchNorm**, then a gate if a ratio is given.

    The BatchNorm follows the activation, so it cannot be folded into this convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        activation: str = "relu",
        squeeze_excite: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        ratio = check_ratio(squeeze_excite)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False, **place)
        self.act = make_activation(activation)
        self.norm = nn.BatchNorm2d(out_channels, **place)
        self.gate: nn.Module = SqueezeExcite(out_channels, ratio, activation, **place) if ratio else nn.Identity()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        return self.rest(self.conv(x_NCHW))

    def rest(self, y_NCHW: Tensor) -> Tensor:
        """The layers after the convolution."""
        return self.gate(self.norm(self.act(y_NCHW)))


def make_depthwise(channels: int, stride: int, bank: str | None, **place: Any) -> nn.Conv2d:
    """A 3x3 depthwise convolution with zero padding 1 and no bias, learnable, or of a bank's constant kernels."""
    if bank is None:
        return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False, **place)
    return FixedConv2d(channels, channels, 3, stride, 1, groups=channels, bias=False, bank=bank, **place)


def constants_made_plain(depthwise: nn.Module) -> nn.Module:
    """An independent plain convolution for constant kernels; any other module is copied."""
    return depthwise.fuse() if isinstance(depthwise, WeightUnit) else copy.deepcopy(depthwise)


def exact_weight(conv: nn.Conv2d) -> Tensor:
    """The weight a convolution (or weight unit) convolves with, detached, in float64."""
    if isinstance(conv, WeightUnit):
        return copy.deepcopy(conv).double().effective_weight().detach()
    return conv.weight.detach().double()


@torch.no_grad()
def fold_norm_between(
    depthwise: nn.Conv2d, norm: nn.BatchNorm2d | nn.SyncBatchNorm, pointwise: nn.Conv2d, first: int
) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Fold the BatchNorm between a depthwise and a pointwise convolution: the scale backwards, the shift forwards.

    A pointwise convolution pads nothing, so a shift of its inputs is exactly a bias: `b = sum_c P[:, c] shift_c`.

    Args:
        depthwise, norm, pointwise: the three modules; the depthwise one has no bias. They are left unchanged.
        first: the input channel of `pointwise` at which the normalised channels begin.

    Returns:
        New convolutions in the place of `depthwise` and `pointwise`, formed in float64 and cast last.
    """
    scale, shift = batch_norm_affine(norm)
    small = exact_weight(depthwise) * scale[:, None, None, None]
    large = exact_weight(pointwise)
    bias = large[:, first : first + len(shift), 0, 0] @ shift
    like = pointwise.weight
    return (
        plain_conv(Geometry.of(depthwise), small, None, like=like, train=depthwise.training),
        plain_conv(Geometry.of(pointwise), large, bias, like=like, train=pointwise.training),
    )
