"""Effective kernels: the kernels each layer convolves with, whatever its parameters mean.

A plain convolution shows its weight, and a weight unit its `effective_weight()`. A unit that fuses to a convolution
shows the weight of that convolution, and a frequency filter (hook `filters`) its filters in space. Any other unit is
linearised: its kernel is the mean Jacobian of one output pixel with respect to the input around it, at the inputs the
layer sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ..errors import unknown_name
from ..hooks import Hooks, writes
from ..ops.binary_conv import PackedBinaryConv2d
from ..surgery.modes import evaluating
from ..surgery.sites import is_unit, refuse_wrappers
from ..units.contract.start import Unit
from ..units.contract.weight import WeightUnit
from .layers import Layer, find_layers, pass_through

Origin = Literal["weight", "effective weight", "fused weight", "frequency filter", "linearised"]
_COPIES = 32
"""Output channels whose Jacobian is taken at once."""


@dataclass(frozen=True)
class LayerKernels:
    """The spatial kernels of one layer.

    Attributes:
        name: the layer's path.
        shape: its geometry in short, `64->64 3x3 depthwise`.
        weight: effective kernels, (out channels, in channels / groups, height, width), float64 on the CPU.
        origin: where they come from.
        stride, dilation: of the layer. Dilation is (1, 1) where the kernel already holds the gaps.
        depthwise: whether each group reads one channel.
        stage: number of its output's map size, counted from 0 at the largest; None without an example.
        last_depthwise: whether it is the last depthwise layer, the one before the global pooling.
    """

    name: str
    shape: str
    weight: Tensor
    origin: Origin
    stride: tuple[int, int]
    dilation: tuple[int, int]
    depthwise: bool
    stage: int | None = None
    last_depthwise: bool = False

    @property
    def kernels(self) -> Tensor:
        """All kernels of the layer, (count, height, width)."""
        return self.weight.flatten(0, 1)

    @property
    def strided(self) -> bool:
        """Does the layer make its map smaller?"""
        return max(self.stride) > 1

    @property
    def role(self) -> str:
        """`strided depthwise`, `depthwise`, `strided` or `dense`."""
        parts = [word for word, holds in (("strided", self.strided), ("depthwise", self.depthwise)) if holds]
        return " ".join(parts) or "dense"


def layer_kernels(
    model: nn.Module, images: Tensor | None = None, *, layers: Sequence[str] | None = None
) -> list[LayerKernels]:
    """The effective kernels of every layer that is larger than 1x1, in definition order.

    Args:
        model: any model; it is left as it was.
        images: an example batch (N, C, H, W). It gives each layer its stage. Units that are not a convolution are
            linearised at the inputs it produces; without it, at standard normal inputs.
        layers: only these, by path.

    Raises:
        ValueError: a name that is not a convolution or unit of the model.
    """
    refuse_wrappers(model)
    found = find_layers(model)
    if layers is not None:
        known = {layer.name: layer for layer in found}
        _check_names(layers, known)
        found = [known[name] for name in layers]
    passed = {} if images is None else pass_through(model, images[:8])
    stages = _stages([seen.output for seen in passed.values()])
    spatial = [layer for layer in found if max(layer.geometry.kernel_size) > 1]
    last = next((layer.name for layer in reversed(spatial) if layer.depthwise), None)
    read = []
    for layer in spatial:
        seen = passed.get(layer.name)
        weight, origin = effective_kernel(layer, None if seen is None else seen.input)
        read.append(
            LayerKernels(
                layer.name,
                layer.geometry.describe(),
                weight,
                origin,
                layer.geometry.stride,
                layer.geometry.dilation if "weight" in origin else (1, 1),
                layer.depthwise or origin == "frequency filter",
                None if seen is None else stages.get(_size(seen.output)),
                layer.name == last,
            )
        )
    return read


def _check_names(names: Sequence[str], known: dict[str, Layer]) -> None:
    for name in names:
        if name not in known:
            raise unknown_name("convolution", name, known)


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape[-2:]).numel())


def _stages(shapes: Sequence[tuple[int, ...]]) -> dict[int, int]:
    """Number of each map size, the largest first; maps of one pixel (gates) belong to no stage."""
    sizes = sorted({_size(shape) for shape in shapes if len(shape) == 4 and _size(shape) > 1}, reverse=True)
    return {size: number for number, size in enumerate(sizes)}


def effective_kernel(layer: Layer, inputs: Tensor | None = None) -> tuple[Tensor, Origin]:
    """A layer's kernel (out, in / groups, height, width) in float64 on the CPU, and where it was read from.

    Args:
        layer: a convolution or unit.
        inputs: inputs (N, C, H, W) for linearising a layer that is not a convolution; default: standard normal.
    """
    module = layer.module
    with torch.no_grad():
        if isinstance(module, WeightUnit):
            return module.effective_weight().detach().cpu().double(), "effective weight"
        if isinstance(module, PackedBinaryConv2d):
            return module.weight.detach().cpu().double(), "fused weight"
        if writes(module, Hooks.filters):
            return _filters(cast(Hooks, module), inputs), "frequency filter"
        if isinstance(module, nn.Conv2d) and _is_plain(module):
            return module.weight.detach().cpu().double(), "weight"
        fused = None if isinstance(module, nn.Conv2d) else _fused(module)
        if fused is not None:
            return fused.weight.detach().cpu().double(), "fused weight"
    return linearised_kernel(layer, inputs), "linearised"


def _filters(module: Hooks, inputs: Tensor | None) -> Tensor:
    """The filters that multiply maps of the inputs' size, laid out as weights are."""
    size = (32, 32) if inputs is None else (int(inputs.shape[-2]), int(inputs.shape[-1]))
    kernels = cast(Tensor, module.filters(size)).detach().cpu()
    # A convolution's kernel at displacement d multiplies the input at -d; a weight's tap at +j the input at +j.
    rows, columns = ((n // 2 - torch.arange(n)).remainder(n) for n in size)
    return kernels[:, rows][:, :, columns][:, None]


def _is_plain(conv: nn.Conv2d) -> bool:
    """Does the module convolve with its `weight`? timm's `Conv2dSame` differs only in padding."""
    kind = type(conv)
    names = {base.__name__ for base in kind.__mro__ if base is not nn.Conv2d}
    own = kind.forward is not nn.Conv2d.forward or kind._conv_forward is not nn.Conv2d._conv_forward
    return not own or (kind.__name__ == "Conv2dSame" and "StdConv2d" not in names)


def _fused(unit: nn.Module) -> nn.Conv2d | None:
    with evaluating(unit):
        fused = cast(Unit, unit).fuse() if is_unit(unit) else None
    return fused if type(fused) is nn.Conv2d else None


def linearised_kernel(layer: Layer, inputs: Tensor | None = None, *, points: int = 4) -> Tensor:
    """The mean Jacobian of one output pixel with respect to the input around it: (out, in / groups, height, width).

    The window is as large as the kernel, or as the region that the unit really reads within twice that size.

    Args:
        layer: a unit, or a convolution of any class.
        inputs: where it is linearised, (N, C, H, W): up to `points` patches are taken from their middle.
        points: how many.
    """
    geometry = layer.geometry
    weight = next(layer.module.parameters())
    extent = [dilation * (k - 1) + 1 for k, dilation in zip(geometry.kernel_size, geometry.dilation, strict=True)]
    side = [2 * e + 2 * s + 1 for e, s in zip(extent, geometry.stride, strict=True)]
    patches = _patches(inputs, geometry.in_channels, (side[0], side[1]), points).to(weight)
    total = torch.zeros(geometry.out_channels, geometry.in_channels, *side, dtype=torch.float64)
    with evaluating(layer.module), torch.enable_grad():
        for patch in patches:
            for start in range(0, geometry.out_channels, _COPIES):
                total[start : start + _COPIES] += _jacobian(layer.module, patch, start).cpu().double()
    total /= len(patches)
    rows, columns = (_reach(total, axis, e) for axis, e in zip((2, 3), extent, strict=True))
    window = _recentre(total, layer, rows, columns)
    return _own_group(window, geometry.groups)


def _patches(inputs: Tensor | None, channels: int, side: tuple[int, int], points: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if inputs is None or inputs.dim() != 4:
        return torch.randn(points, channels, *side, generator=generator)
    taken = inputs.detach()[:points]
    height, width = taken.shape[2:]
    if height < side[0] or width < side[1]:  # smaller maps are extended by reflection at their edges
        rows, columns = (_reflected(n, s) for n, s in zip((height, width), side, strict=True))
        return taken[:, :, rows][:, :, :, columns]
    top, left = (height - side[0]) // 2, (width - side[1]) // 2
    return taken[:, :, top : top + side[0], left : left + side[1]]


def _reflected(size: int, side: int) -> Tensor:
    period = max(2 * size - 2, 1)
    place = (torch.arange(side) - (side - size) // 2).remainder(period)
    return torch.minimum(place, period - place) if size > 1 else torch.zeros(side, dtype=torch.long)


def _jacobian(module: nn.Module, patch: Tensor, start: int) -> Tensor:
    """Rows `start` .. of the Jacobian of the middle output pixel: copies of the patch, one output channel each."""
    channels = range(start, min(start + _COPIES, int(module.out_channels)))  # type: ignore[arg-type]
    copies = patch.expand(len(channels), *patch.shape).clone().requires_grad_()
    output = module(copies)
    middle = output[:, :, output.shape[2] // 2, output.shape[3] // 2]
    (gradient,) = torch.autograd.grad(middle[range(len(channels)), list(channels)].sum(), copies)
    return gradient


def _centre(layer: Layer, axis: int, side: int) -> int:
    """The input pixel that the middle output pixel looks at."""
    g = layer.geometry
    k, stride, dilation = g.kernel_size[axis], g.stride[axis], g.dilation[axis]
    extent = dilation * (k - 1) + 1
    padding = g.padding[axis] if not isinstance(g.padding, str) else (extent - 1) // 2 if g.padding == "same" else 0
    outputs = (side + 2 * int(padding) - extent) // stride + 1
    return (outputs // 2) * stride - int(padding) + (extent - 1) // 2


def _reach(total: Tensor, axis: int, extent: int) -> tuple[int, int]:
    """First and last index along an axis whose entries are not negligible; the whole extent if there are none."""
    profile = total.abs().amax([d for d in range(4) if d != axis])
    touched = (profile > 1e-9 * profile.max().clamp_min(1e-300)).nonzero()[:, 0].tolist()
    return (touched[0], touched[-1]) if touched else (0, extent - 1)


def _recentre(total: Tensor, layer: Layer, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Crop to a window around the centre that holds everything touched and is at least as large as the kernel."""
    for dim, axis, (first, last) in ((2, 0, rows), (3, 1, columns)):
        geometry, side = layer.geometry, total.shape[dim]
        extent = geometry.dilation[axis] * (geometry.kernel_size[axis] - 1) + 1
        centre = _centre(layer, axis, side)
        low, high = centre - (extent - 1) // 2, centre + extent // 2
        grow = max(low - first, last - high, 0)
        low, high = max(low - grow, 0), min(high + grow, side - 1)
        total = total.narrow(dim, low, high - low + 1)
    return total


def _own_group(window: Tensor, groups: int) -> Tensor:
    """(out, in, ..) -> (out, in / groups, ..): for each output channel, the input channels of its group."""
    if groups == 1:
        return window
    out, channels = window.shape[:2]
    each = channels // groups
    first = torch.arange(out) // (out // groups) * each
    index = first[:, None] + torch.arange(each)
    return window[torch.arange(out)[:, None], index]
