"""The Ghost module of GhostNet (C-Ghost) as a convolution, and its inference form (arXiv:1911.11907)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError, check_choice, check_whole
from ...hooks import Hooks
from ..contract.feature import FeatureUnit
from ..contract.geometry import Geometry
from ..contract.registry import register_unit
from ..support.folding import fold_conv_norm
from ..support.rectifier import FreeReLU


@register_unit(
    "ghost",
    paper="arXiv:1911.11907",
    year=2020,
    summary="convolves to 1/s of the channels and makes the others from these by cheap depthwise kernels",
    warm_start="none",
    fusion="cheaper",
    default_where="all",
    placement="paper",
    train_eval="batch_norm",
    variants=(
        {"relu": True},
        {"ratio": 1},
        {"ratio": 1, "relu": True},
        {"ratio": 3, "cheap_kernel": 1},
        {"ratio": 4, "cheap_kernel": 5, "relu": True},
    ),
)
class GhostConv2d(FeatureUnit):
    """The Ghost module: m = ceil(n / s) intrinsic maps by a convolution, the other n - m from them by d x d kernels.

    With x (N, in, H, W), n output channels, s = `ratio`, d = `cheap_kernel` and [relu] where `relu=True`:

    - intrinsic: `y = [relu] BN(conv(x))`, (N, m, H', W'), the convolution without bias with the host's geometry;
    - ghosts: `g = [relu] BN(depthwise_d(y))`, s - 1 of every intrinsic map, stride 1, zero padding d // 2;
      ghost j comes from intrinsic map j // (s - 1);
    - output: `concat[y, g]`, (N, n, H', W').

    The identity is one of the paper's s linear operations: the intrinsic maps are part of the output. Parameters:
    `m in/groups k^2 + (n - m) d^2 + 2 n`. Parameters and operations are about 1/s of the convolution's.

    If s does not divide n, the official code makes m (s - 1) ghosts and discards the surplus. The function is the same
    without the surplus, so intrinsic maps whose ghosts would all be cut get none here. The last map with ghosts keeps
    its cut ones (at most s - 2; none for s = 2), as in the official code. That code's count is larger by
    `(m - p)(s - 1)(d^2 + 2)` with `p = ceil((n - m) / (s - 1))`. Parameter names are those of the official code
    and of timm, whose states load strictly where the counts agree.

    BatchNorm and rectifier are inside. `swap` removes the host's BatchNorm behind the convolution, and sets `relu` if
    the host has a ReLU next (never before a residual addition, which costs accuracy). The BatchNorm serves as the
    bias, so `bias` is accepted and not used.

    The unit keeps only the first m filters of a trained convolution, so there is no warm start and it must be trained.
    `fuse()` folds both BatchNorms; with the rectifier, or with d > 1 and the zero padding of the intrinsic maps, the
    module is not one convolution.

    Args:
        ratio: s, a whole number of at least 1. 1 makes no ghosts: the plain convolution with BatchNorm.
        cheap_kernel: d, odd.
        relu: whether both parts are rectified.

    The other arguments are those of `nn.Conv2d`. The ghosts are padded with zeros whatever `padding_mode` says.

    Raises:
        ValueError: an option is not allowed, the convolution is depthwise, or `groups` does not divide m.
    """

    absorbs_batch_norm = True
    relu_follows_host = True

    def setup(self, *, ratio: int = 2, cheap_kernel: int = 3, relu: bool = False) -> None:
        """Check the options and build the unit; see the class."""
        _check_options(ratio, cheap_kernel, relu)
        reason = _refusal(self.in_channels, self.out_channels, self.groups, ratio)
        if reason is not None:
            raise UsageError(f"{type(self).__name__}({FeatureUnit.extra_repr(self)}): {reason}")
        self.ratio, self.cheap_kernel, self.relu = ratio, cheap_kernel, bool(relu)
        self.bias = None
        self.intrinsic = _intrinsic(self.out_channels, ratio)
        place = self.place
        geometry = Geometry.of(self).arguments() | {"out_channels": self.intrinsic}
        ghosts = self.intrinsic < self.out_channels
        self.primary_conv = self._with_norm(nn.Conv2d(**geometry, **place), place, ends=not ghosts)
        self.parents, cheap = 0, None
        if ghosts:
            self.parents = -(-(self.out_channels - self.intrinsic) // (ratio - 1))
            made = self.parents * (ratio - 1)
            conv = nn.Conv2d(
                self.parents, made, cheap_kernel, 1, cheap_kernel // 2, groups=self.parents, bias=False, **place
            )
            cheap = self._with_norm(conv, place)
        self.cheap_operation = cheap

    def _with_norm(self, conv: nn.Conv2d, place: dict[str, Any], *, ends: bool = False) -> nn.Sequential:
        """Convolution, BatchNorm and rectifier; one that `ends` the unit may be overwritten by what follows."""
        layers = [conv, nn.BatchNorm2d(conv.out_channels, **place)]
        return nn.Sequential(*layers, _rectifier(ends)) if self.relu else nn.Sequential(*layers)

    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        """Why the module cannot stand there (the convolution is depthwise, or its groups do not divide m), or None.

        Raises:
            ValueError: an option is not allowed.
        """
        ratio = options.get("ratio", 2)
        _check_options(ratio, options.get("cheap_kernel", 3), options.get("relu", False))
        return _refusal(conv.in_channels, conv.out_channels, conv.groups, ratio)

    @property
    def weight(self) -> Tensor:
        """The weight of the primary convolution: (m, in/groups, kH, kW)."""
        return cast(Tensor, self.primary_conv[0].weight)

    def copy_initial(self, conv: nn.Conv2d) -> None:
        """Copy the first m of the host's freshly drawn filters."""
        self.weight.copy_(conv.weight[: self.intrinsic])

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        y = self.primary_conv(input)
        return y if self.cheap_operation is None else _join(y, self.cheap_operation, self.parents, self.out_channels)

    def fuse(self) -> nn.Module:
        """The inference form: both BatchNorms folded, equal in evaluation.

        A plain `nn.Conv2d` if there are neither ghosts nor a rectifier, else a `FusedGhost`.

        Raises:
            FusionError: a BatchNorm keeps no running statistics.
        """
        primary = _fold(self.primary_conv)
        cheap = None if self.cheap_operation is None else _fold(self.cheap_operation)
        if cheap is None and not self.relu:
            return primary
        return FusedGhost(Geometry.of(self), primary, cheap, relu=self.relu).train(self.training)


class FusedGhost(Hooks, nn.Module):
    """The inference form of `GhostConv2d`: `y = [relu] conv(x)`, `concat[y, [relu] depthwise(y)]`, both with bias.

    Identity and ghosts could also be one depthwise convolution of multiplier s, with a permutation of the channels
    in place of the concatenation. On a CPU that takes 4 to 15 times as long (`benchmarks/units/grouped_forms.py`), so
    it is not used. Built by `GhostConv2d.fuse()`.
    """

    narrows_by_parts = True

    def __init__(self, geometry: Geometry, primary: nn.Conv2d, cheap: nn.Conv2d | None, *, relu: bool) -> None:
        super().__init__()
        self.in_channels, self.out_channels = geometry.in_channels, geometry.out_channels
        self.kernel_size, self.stride, self.padding = geometry.kernel_size, geometry.stride, geometry.padding
        self.dilation, self.groups, self.padding_mode = geometry.dilation, geometry.groups, geometry.padding_mode
        self.bias = None
        self.primary_conv: nn.Module = nn.Sequential(primary, _rectifier(cheap is None)) if relu else primary
        self.parents, self.cheap_operation = 0, None
        if cheap is not None:
            self.parents = cheap.in_channels
            self.cheap_operation = nn.Sequential(cheap, nn.ReLU(inplace=True)) if relu else cheap

    @property
    def weight(self) -> Tensor:
        """The weight of the primary convolution: (m, in/groups, kH, kW)."""
        return next(self.primary_conv.parameters())

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        y = self.primary_conv(input)
        return y if self.cheap_operation is None else _join(y, self.cheap_operation, self.parents, self.out_channels)


def _rectifier(ends: bool) -> nn.ReLU:
    return FreeReLU(inplace=True) if ends else nn.ReLU(inplace=True)


def _join(y: Tensor, cheap: nn.Module, parents: int, out_channels: int) -> Tensor:
    """The intrinsic maps, then the ghosts of the first `parents` of them, cut to the channels asked for."""
    ghosts = cheap(y if parents == y.shape[1] else y[:, :parents])
    wanted = out_channels - y.shape[1]
    return torch.cat([y, ghosts if ghosts.shape[1] == wanted else ghosts[:, :wanted]], 1)


def _fold(part: nn.Sequential) -> nn.Conv2d:
    return fold_conv_norm(cast(nn.Conv2d, part[0]), cast(nn.BatchNorm2d, part[1]))


def _intrinsic(out_channels: int, ratio: int) -> int:
    return -(-out_channels // ratio)


def _check_options(ratio: object, cheap_kernel: object, relu: object) -> None:
    check_whole("ratio", ratio)
    check_whole("cheap_kernel", cheap_kernel, odd=True)
    check_choice("relu", relu, (True, False))


def _refusal(in_channels: int, out_channels: int, groups: int, ratio: int) -> str | None:
    if 1 < groups == in_channels:
        return "it is depthwise: its kernels are as cheap as a ghost's, so nothing would be saved"
    intrinsic = _intrinsic(out_channels, ratio)
    if intrinsic % groups:
        return f"groups={groups} do not divide the {intrinsic} of {out_channels} maps that ratio={ratio} convolves"
    return None
