"""The block of Min-Nets and FP-nets: two filters joined by an AND, around a shortcut (arXiv:2201.02149)."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UsageError, check_whole
from ..contract.block import BlockUnit, Place
from ..contract.geometry import Geometry
from ..contract.registry import register_unit
from .core import MinimumCore, count_maps


class ResidualAdapter(nn.Module):
    """The shortcut of that paper: 2x2 average pooling for stride 2, zero channels appended, no parameters.

    Odd heights and widths are rounded up; a window over the border averages the pixels it has. If there are fewer
    channels after than before, a 1x1 convolution with bias follows the pooling instead of the zeros.

    Raises:
        ValueError: `stride` is not 1 or 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        reason = refuse_stride(stride)
        if reason is not None:
            raise UsageError(reason)
        self.pool: nn.Module = nn.AvgPool2d(2, 2, ceil_mode=True) if stride == 2 else nn.Identity()
        fewer = out_channels < in_channels
        self.conv = nn.Conv2d(in_channels, out_channels, 1, device=device, dtype=dtype) if fewer else nn.Identity()
        self.zero_channels = max(out_channels - in_channels, 0)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        x_NCHW = self.conv(self.pool(x_NCHW))
        return F.pad(x_NCHW, (0, 0, 0, 0, 0, self.zero_channels)) if self.zero_channels else x_NCHW

    def extra_repr(self) -> str:
        """Show the number in `print(model)`."""
        return f"zero_channels={self.zero_channels}"


def refuse_stride(stride: int) -> str | None:
    """Why this stride is not allowed, or None."""
    return None if stride in (1, 2) else f"stride={stride} is not allowed; its shortcut pools 2x2, so give 1 or 2"


@register_unit(
    "minimum_block",
    paper="arXiv:2201.02149",
    year=2021,
    summary="a residual block of two depthwise filters joined by an AND: the minimum or the product of both",
    warm_start="none",
    fusion="cheaper",
    replaces="block",
    default_where="stage_start",
    placement="paper",
    train_eval="batch_norm",
    variants=(
        {"combine": "product"},
        {"combine": "abs_relu"},
        {"combine": "log"},
        {"norm": "batch"},
        {"combine": "log", "norm": "batch", "expansion": 0.8},
        {"kernel_size": 5, "expansion": 1},
    ),
)
class MinimumBlock(BlockUnit):
    """A residual block that looks twice: `y = relu(BN(conv1x1(combine(a, b)))) + shortcut(x)`.

    `u = relu(BN(conv1x1(x)))` has F = expansion * out maps at the input's resolution; `a = norm(dw_left(u))` and
    `b = norm(dw_right(u))` are depthwise k x k convolutions of it with the stride, padding k // 2 and no bias. There
    is no rectifier after the sum. The shortcut is a `ResidualAdapter`. The last layer of the branch is rectified, so
    the block only ever adds to the stream. Parameters: `F in + 2 F + 2 k k F + F out + 2 out`, and `in out + out`
    if the shortcut has a 1x1 convolution. As in the paper, it replaces the first block of each stage.

    Instance norm takes its statistics from the image. The block therefore depends on the resolution, not on the
    batch, and the scale of the depthwise filters does not matter. Maps of one pixel are not normalised
    (`nn.InstanceNorm2d` raises there; the value could only be 0).

    `fuse()` folds every BatchNorm; instance norm stays.

    Args:
        in_channels, out_channels, stride: the place; the stride is 1 or 2.
        combine: how the rectified responses are joined. `"min"` (Min-Net) is the minimum, `"product"` (FP-net) the
            product; `"abs_relu"`: `relu(a + b) - relu(a - b) - relu(b - a)`, which is twice the minimum; `"log"`
            (Log-FP): `2 ** BN(log2(relu6(a) + 0.5) + log2(relu6(b) + 0.5))` of unrectified responses, BN without
            parameters.
        norm: `"instance"`, or, ours, `"batch"`: it then folds into the depthwise convolutions.
        expansion: maps per output channel (q).
        kernel_size: of the depthwise filters, odd.

    Raises:
        ValueError: the stride is neither 1 nor 2, or an option is not allowed.
    """

    def setup(
        self,
        *,
        combine: str = "min",
        norm: str = "instance",
        expansion: float = 2,
        kernel_size: int = 3,
    ) -> None:
        """Check the options and build the unit; see the class."""
        check_whole("kernel_size", kernel_size, 3, odd=True)
        place = self.place
        self.shortcut = ResidualAdapter(self.in_channels, self.out_channels, self.stride, **place)
        side, margin = (kernel_size, kernel_size), (kernel_size // 2, kernel_size // 2)
        geometry = Geometry(self.in_channels, self.out_channels, side, (self.stride, self.stride), margin, bias=False)
        self.core = MinimumCore(geometry, combine=combine, norm=norm, expansion=expansion, **place)
        self.norm = nn.BatchNorm2d(self.out_channels, **place)

    @classmethod
    def supports(cls, place: Place, **options: Any) -> str | None:
        """Refuses strides that its shortcut cannot follow (not 1 or 2), and an `expansion` that makes no map."""
        try:
            count_maps(place.out_channels, 1, options.get("expansion", 2))
        except UsageError as error:
            return str(error)
        return refuse_stride(place.stride)

    def branch(self, x_NCHW: Tensor) -> Tensor:
        """The residual branch alone."""
        return self.norm(self.core(x_NCHW)).relu_()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        return self.branch(x_NCHW) + self.shortcut(x_NCHW)

    def fuse(self) -> FusedMinimumBlock:
        """The inference form: all BatchNorms folded, in float64.

        Raises:
            FusionError: a BatchNorm keeps no running statistics.
        """
        return FusedMinimumBlock(self)


class FusedMinimumBlock(nn.Module):
    """The inference form of `MinimumBlock`: `relu(core(x)) + shortcut(x)` without any BatchNorm."""

    def __init__(self, block: MinimumBlock) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = block.in_channels, block.out_channels, block.stride
        self.core = block.core.fuse(block.norm)
        self.shortcut = copy.deepcopy(block.shortcut)
        self.train(block.training)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        return self.core(x_NCHW).relu_() + self.shortcut(x_NCHW)
