"""The harmonic block: a detour through complex streams of rotation orders (arXiv:1612.04642)."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import check_choice, check_number
from ..contract.block import BlockUnit
from ..contract.registry import register_unit
from .layers import ComplexBatchNorm, ComplexReLU, HarmonicConv2d, HarmonicMeanPool


class _BlockForward(nn.Module):
    """The forward pass of the block and its fused form, which differ in their parts."""

    pool: nn.Module
    lift: nn.Conv2d
    act: nn.Module
    cross: nn.Conv2d
    norm: nn.Module
    shortcut: nn.Module | None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        x_NCHW = self.pool(x_NCHW)
        y_NCHW = self.norm(self.cross(self.act(self.lift(x_NCHW))))
        return y_NCHW if self.shortcut is None else y_NCHW + self.shortcut(x_NCHW)


class _MoreChannels(nn.Module):
    """Append channels of zeros."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + extra, H, W)."""
        return F.pad(x_NCHW, (0, 0, 0, 0, 0, self.extra)) if self.extra else x_NCHW


@register_unit(
    "harmonic",
    replaces="block",
    paper="arXiv:1612.04642",
    year=2017,
    summary="circular harmonic filters: streams of rotation orders inside, rotation-invariant magnitudes out",
    warm_start="none",
    fusion="cheaper",
    default_where="all",
    placement="inferred",
    train_eval="batch_norm",
    variants=(
        {"max_order": 2, "zero_order_phase": "code", "width": 0.25},
        {"kernel_size": 3, "rings": 2, "phase": False, "residual": False},
        {"basis": "sum", "max_order": 0, "kernel_size": 3},
    ),
)
class HarmonicBlock(_BlockForward, BlockUnit):
    """Lift a real map to orders 0..M, C-ReLU, cross-order convolution, C-BN, leave with the magnitudes.

    `y = sum_m relu(BN(|Z_m|)) + pool(x)`, `Z = cross(C-ReLU(lift(pool(x))))`: two k x k convolutions as in the blocks
    of the paper's networks, with h = width * out complex channels an order between them. Every part is equivariant and
    the magnitudes do not change with the angle, so turning x turns y: exactly by quarter turns of square maps, of any
    size and stride. A network is equivariant only if its other layers are. The usual learned stem is not: its filters
    have a direction. `HarmonicMeanPool` takes strides on the real map, before anything else.

    The sum with the pooled input is ours (zero channels appended; a 1x1 convolution if channels become fewer). The
    paper has no such sum, but leaves its streams once in a network and not in every block. Nine blocks in a row hardly
    train without the sum.

    Parameters: `(M + 1) ((rings + 1) h (in + out) + h + 2 out)` with phases, and `in out` of a 1x1 convolution. The
    plain kernels have 2 h (M + 1) and 2 out (M + 1) output channels, so the block costs more than its parameters say.

    `fuse()`: two plain convolutions on real and imaginary channels; C-BN becomes an affine map of the magnitudes.
    Inferred by us: the use as a drop-in for residual blocks; the paper builds whole networks (`harmonic_mnist`).

    Args:
        in_channels, out_channels, stride: the place.
        max_order: M.
        width: h / out.
        kernel_size: k, 5 in the paper.
        rings: of the radial profiles, 4 in the paper's network for digits.
        phase: whether filters have phases.
        zero_order_phase: `"paper"`, or `"code"` for the official code's, see `HarmonicConv2d`.
        basis: `"unit"` (ours) or `"sum"`, see `HarmonicConv2d`.
        residual: add the pooled input; False as in the paper.

    Raises:
        ValueError: an option is not allowed.
    """

    def setup(
        self,
        *,
        max_order: int = 1,
        width: float = 0.5,
        kernel_size: int = 5,
        rings: int = 4,
        phase: bool = True,
        zero_order_phase: str = "paper",
        basis: str = "unit",
        residual: bool = True,
    ) -> None:
        """Check the options and build the unit; see the class."""
        check_choice("residual", residual, (True, False))
        place = self.place
        hidden = _hidden(self.out_channels, width)
        filters: dict[str, Any] = {"rings": rings, "phase": phase, "zero_order_phase": zero_order_phase, "basis": basis}
        self.pool = HarmonicMeanPool(self.stride) if self.stride > 1 else nn.Identity()
        orders: dict[str, Any] = {"max_order": max_order, "max_order_in": None}
        self.lift = HarmonicConv2d(self.in_channels, hidden, kernel_size, **orders, **filters, **place)
        self.act = ComplexReLU(hidden, max_order, **place)
        orders = {"max_order": max_order, "max_order_in": max_order}
        self.cross = HarmonicConv2d(hidden, self.out_channels, kernel_size, **orders, **filters, **place)
        self.norm = ComplexBatchNorm(self.out_channels, max_order, leave=True, **place)
        self.shortcut: nn.Module | None = None
        if residual and self.out_channels < self.in_channels:
            self.shortcut = nn.Conv2d(self.in_channels, self.out_channels, 1, bias=False, **place)
        elif residual:
            self.shortcut = _MoreChannels(self.out_channels - self.in_channels)

    def fuse(self) -> FusedHarmonicBlock:
        """The inference form: plain convolutions, no BatchNorm; equal in evaluation.

        Raises:
            FusionError: the BatchNorm keeps no running statistics.
        """
        return FusedHarmonicBlock(self)


class FusedHarmonicBlock(_BlockForward):
    """The inference form of `HarmonicBlock`: the same steps with plain convolutions and without BatchNorm.

    Args:
        block: the block; it is left untouched.
    """

    def __init__(self, block: HarmonicBlock) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = block.in_channels, block.out_channels, block.stride
        self.pool, self.act = copy.deepcopy(block.pool), copy.deepcopy(block.act)
        self.shortcut = copy.deepcopy(block.shortcut)
        self.lift, self.cross, self.norm = block.lift.fuse(), block.cross.fuse(), block.norm.fuse()  # type: ignore[operator]
        self.train(block.training)


def _hidden(out_channels: int, width: object) -> int:
    return max(1, round(out_channels * check_number("width", width, lambda w: w > 0, "a number greater than 0")))
