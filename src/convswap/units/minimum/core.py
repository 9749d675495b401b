"""The shared part of the minimum units: two filters of the same map, joined by an AND (arXiv:2201.02149).

    u = relu(BN(conv1x1(x)))                       F = expansion * out maps
    a, b = norm(dw_left(u)), norm(dw_right(u))     two depthwise convolutions, independent weights
    m = combine(a, b)                              large only where both are large
    y = conv1x1(m)

The two filters are two depthwise convolutions, not one with two outputs per group. That would be the same function,
but several times slower on a CPU, where only one filter per channel has a fast kernel, and no faster to read back.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UsageError, check_choice, is_number
from ...ops.gradients import wants_gradient
from ..contract.geometry import Geometry, plain_conv
from ..contract.precision import compute_dtype
from ..support.depthwise import run_depthwise
from ..support.folding import BATCH_NORMS, batch_norm_affine

COMBINE = ("min", "product", "abs_relu", "log")
NORM = ("instance", "batch")


def count_maps(out_channels: int, groups: int, expansion: float) -> int:
    """F: `expansion * out_channels` rounded down to a multiple of `groups`.

    Raises:
        ValueError: `expansion` is not a number that leaves every group at least one map.
    """
    each = out_channels // groups
    if not is_number(expansion) or int(expansion * each) < 1:
        raise UsageError(
            f"expansion={expansion!r} is not allowed; give a number of at least {1 / each:g}, which makes one map of "
            f"the {each} output channels{'' if groups == 1 else ' of a group'}"
        )
    return groups * int(expansion * each)


class MapNorm(nn.InstanceNorm2d):
    """Instance normalisation without parameters, `(x - mean) / sqrt(var + eps)` over each map of each example.

    The same in training and evaluation. A map of one pixel is left as it is: its normalised value would be 0
    whatever the input (`nn.InstanceNorm2d` raises there). Unlike `nn.InstanceNorm2d`, this keeps channels_last maps
    in place.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        n, channels, height, width = input.shape
        if height * width == 1:
            return input
        if input.is_contiguous():
            return F.group_norm(input, channels, eps=self.eps)  # one channel a group is the same; twice as fast
        x_NPC = input.to(compute_dtype(input.dtype)).permute(0, 2, 3, 1).reshape(n, height * width, channels)
        x_NPC = x_NPC - x_NPC.mean(1, keepdim=True)
        x_NPC = x_NPC * torch.rsqrt(x_NPC.square().mean(1, keepdim=True) + self.eps)
        return x_NPC.to(input.dtype).view(n, height, width, channels).permute(0, 3, 1, 2)


def minimum(a: Tensor, b: Tensor) -> Tensor:
    """`torch.minimum(a, b)` of finite maps with a cheaper gradient. A tie's gradient goes to b."""
    if not wants_gradient(a, b):
        return torch.minimum(a, b)
    # At a weight of exactly 0 or 1 lerp returns its operand unrounded. It keeps one mask; minimum keeps both maps.
    # Its gradient is two products instead of comparisons and fills: a quarter of the time on a CPU.
    return torch.lerp(b, a, (a < b).to(a.dtype))


def joined(a: Tensor, b: Tensor, combine: str) -> Tensor:
    """The AND of two responses before rectification. For `"log"`, the product whose logarithm is normalised."""
    if combine == "product":
        return a.relu() * b.relu()
    if combine == "log":
        return (F.relu6(a) + 0.5) * (F.relu6(b) + 0.5)
    # min(relu(a), relu(b)) = relu(min(a, b)): one rectifier instead of two
    return minimum(a, b).relu_()


class MinimumCore(nn.Module):
    """The body of the minimum units, see the module's text: (N, in, H, W) -> (N, out, H', W').

    `geometry` is the depthwise convolutions' geometry, except that its channels are those in and out of the whole.
    With groups the 1x1 convolutions are grouped. `geometry.bias` is for the last 1x1 convolution.

    Raises:
        ValueError: `combine`, `norm` or `expansion` has a value that is not allowed.
    """

    def __init__(self, geometry: Geometry, *, combine: str, norm: str, expansion: float, **place: Any) -> None:
        check_choice("combine", combine, COMBINE)
        check_choice("norm", norm, NORM)
        super().__init__()
        g = geometry
        maps = count_maps(g.out_channels, g.groups, expansion)
        self.combine = combine
        each = g.arguments() | {"in_channels": maps, "out_channels": maps, "groups": maps, "bias": False}
        self.expand = nn.Conv2d(g.in_channels, maps, 1, groups=g.groups, bias=False, **place)
        self.expand_norm = nn.BatchNorm2d(maps, **place)
        self.left = nn.Conv2d(**each, **place)
        self.right = nn.Conv2d(**each, **place)
        self.left_norm = MapNorm(maps) if norm == "instance" else nn.BatchNorm2d(maps, **place)
        self.right_norm = MapNorm(maps) if norm == "instance" else nn.BatchNorm2d(maps, **place)
        self.log_norm = nn.BatchNorm2d(maps, affine=False, **place) if combine == "log" else None
        self.project = nn.Conv2d(maps, g.out_channels, 1, groups=g.groups, bias=g.bias, **place)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Expand, look twice, join, project."""
        u = self.expand_norm(self.expand(x_NCHW)).relu_()
        left, right = run_depthwise(self.left, u), run_depthwise(self.right, u)
        m = joined(self.left_norm(left), self.right_norm(right), self.combine)
        if self.combine == "abs_relu":
            m = 2 * m  # relu(a+b) - relu(a-b) - relu(b-a) = 2 min(a, b) for a, b >= 0
        elif self.log_norm is not None:
            m = torch.exp2(self.log_norm(torch.log2(m)))
        return self.project(m)

    def fuse(self, following: nn.BatchNorm2d | None = None) -> FusedMinimum:
        """The inference form: all BatchNorms folded, in float64, and also a given one that follows.

        Raises:
            FusionError: a BatchNorm keeps no running statistics.
        """
        return FusedMinimum(self, following)


class FusedMinimum(nn.Module):
    """The inference form of `MinimumCore`: no BatchNorm remains, an instance norm stays.

    BatchNorms behind a convolution are folded into its weight and bias. The factor 2 of `abs_relu` and the shift of
    the log form's BatchNorm are in the last 1x1 convolution. The log form is one power: `2 ** (s log2(p) + t) =
    p ** s * 2 ** t`.
    """

    def __init__(self, core: MinimumCore, following: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        self.combine = "min" if core.combine == "abs_relu" else core.combine
        instance = isinstance(core.left_norm, MapNorm)
        self.norm: nn.Module = MapNorm(core.left.out_channels) if instance else nn.Identity()
        self.expand = _folded(core.expand, core.expand_norm)
        self.left = _folded(core.left, core.left_norm)
        self.right = _folded(core.right, core.right_norm)
        self.exponent: nn.Parameter | None = None
        column = core.project.weight.new_full((), 2.0 if core.combine == "abs_relu" else 1.0, dtype=torch.float64)
        if core.log_norm is not None:
            weight = core.project.weight
            scale, shift = batch_norm_affine(core.log_norm)
            column = torch.exp2(shift)
            self.exponent = nn.Parameter(scale.to(weight.dtype), weight.requires_grad)
        self.project = _folded(core.project, following, column)
        self.train(core.training)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H', W')."""
        u = self.expand(input if input.dim() == 4 else input.unsqueeze(0)).relu_()
        m = joined(self.norm(self.left(u)), self.norm(self.right(u)), self.combine)
        if self.exponent is not None:
            m = torch.pow(m, self.exponent[:, None, None])
        y = self.project(m)
        return y if input.dim() == 4 else y.squeeze(0)


@torch.no_grad()
def _folded(conv: nn.Conv2d, norm: nn.Module | None, column: Tensor | None = None) -> nn.Conv2d:
    """A new convolution: its inputs first multiplied by `column`, a BatchNorm behind it folded."""
    weight, bias = conv.weight.double(), None if conv.bias is None else conv.bias.double()
    if column is not None:
        if column.dim() == 1:  # one factor per input channel; each group reads its own
            rows = column.reshape(conv.groups, 1, -1).expand(-1, conv.out_channels // conv.groups, -1)
            column = rows.reshape(conv.out_channels, -1, 1, 1)
        weight = weight * column
    if isinstance(norm, BATCH_NORMS):
        scale, shift = batch_norm_affine(norm)
        weight = weight * scale[:, None, None, None]
        bias = shift if bias is None else bias * scale + shift
    return plain_conv(Geometry.of(conv), weight, bias, like=conv.weight)
