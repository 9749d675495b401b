"""The minimum unit in the place of one convolution: the body of a Min-Net's block (arXiv:2201.02149)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...errors import UsageError
from ..contract.feature import FeatureUnit
from ..contract.registry import register_unit
from .core import FusedMinimum, MinimumCore, count_maps


@register_unit(
    "minimum",
    paper="arXiv:2201.02149",
    year=2021,
    summary="1x1, two depthwise filters joined by an AND (the minimum or the product of both), 1x1",
    warm_start="none",
    fusion="cheaper",
    default_where="spatial & strided & !first",
    placement="inferred",
    train_eval="batch_norm",
    variants=(
        {"combine": "product"},
        {"combine": "abs_relu"},
        {"combine": "log"},
        {"norm": "batch"},
        {"combine": "log", "norm": "batch", "expansion": 1},
    ),
)
class MinimumConv2d(FeatureUnit):
    """The body of a Min-Net's block as a convolution: `y = conv1x1(combine(a, b))`.

    `u = relu(BN(conv1x1(x)))` has F = expansion * out maps; `a = norm(dw_left(u))` and `b = norm(dw_right(u))` are
    depthwise convolutions of it with the replaced convolution's kernel size, stride, padding, dilation and padding
    mode. Parameters: `F in + 2 F + 2 kH kW F + F out`, and out for the bias.

    This sequence, its combinations and norms, and the start (that of `nn.Conv2d`) are **the paper's**. Its place
    instead of one convolution is **ours**: the paper replaces a whole residual block, with a shortcut of its own, which
    is the unit `minimum_block`. Here the host's own BatchNorm and rectifier, which follow the convolution, take the
    part of the block's last ones. The default placement, spatial convolutions with a stride, is where stages start, as
    far as single convolutions show. It does not reach the first stage, which starts without a stride.

    `groups` divides both 1x1 convolutions (ours). The unit does not support 1x1 kernels (two filters of one pixel
    differ only in scale, which the norm removes) or depthwise convolutions (nothing is mixed before the filters).

    A convolution's function cannot be kept: `from_conv` and `fresh_like` take over only its bias. `fuse()` folds
    every BatchNorm, including the host's that follows; instance norm stays. Maps of one pixel are not
    instance-normalised (the value could only be 0).

    Args:
        combine: how the rectified responses are joined: `"min"`, `"product"`, `"abs_relu"` (twice the minimum) or
            `"log"`, see `MinimumBlock`.
        norm: `"instance"`, or, ours, `"batch"`.
        expansion: maps per output channel (q).

    The other arguments are those of `nn.Conv2d`.

    Raises:
        ValueError: an option is not allowed, or the geometry is not supported.
    """

    def setup(self, *, combine: str = "min", norm: str = "instance", expansion: float = 2) -> None:
        """Check the options and build the unit; see the class."""
        reason = _refusal(self.in_channels, self.kernel_size, self.groups)
        if reason is not None:
            raise UsageError(reason)
        self.core = MinimumCore(self.geometry, combine=combine, norm=norm, expansion=expansion, **self.place)

    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        """Refuses pointwise and depthwise convolutions, and groups that `expansion` leaves without a map."""
        try:
            count_maps(conv.out_channels, conv.groups, options.get("expansion", 2))
        except UsageError as error:
            return str(error)
        return _refusal(conv.in_channels, conv.kernel_size, conv.groups)

    @property
    def weight(self) -> Tensor:
        """The left filters, (F, 1, kH, kW), for code that reads a convolution's kernel size, device or dtype."""
        return self.core.left.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of the last 1x1 convolution, (out,), or None."""
        return self.core.project.bias

    def copy_initial(self, conv: nn.Conv2d) -> None:
        """Take over the bias; no other parameter has a counterpart in a convolution."""
        if conv.bias is not None and self.bias is not None:
            self.bias.copy_(conv.bias)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H', W')."""
        return self.core(input) if input.dim() == 4 else self.core(input.unsqueeze(0)).squeeze(0)

    def fuse(self) -> FusedMinimum:
        """The inference form: all BatchNorms folded, in float64.

        Raises:
            FusionError: a BatchNorm keeps no running statistics.
        """
        return self.core.fuse()


def _refusal(in_channels: int, kernel_size: tuple[int, ...], groups: int) -> str | None:
    """Why the unit cannot have this geometry, or None."""
    if max(kernel_size) == 1:
        return "kernel_size=1 is not allowed: its two filters need more than one pixel, so give a larger kernel"
    if 1 < groups == in_channels:
        return f"groups={groups} is not allowed: a depthwise convolution mixes no channels; take minimum_block instead"
    return None
