"""Subclasses of `nn.Conv2d` that pad their input and then convolve: TensorFlow's "same" padding, or fixed borders.

TensorFlow's "same" padding depends on the size of the map: for stride s, kernel k and dilation d, a side of H pixels
gets `max((ceil(H / s) - 1) s + d (k - 1) + 1 - H, 0)` zeros, the odd one at the end.

A subclass is read by what it does: run on maps of many sizes without any image, it may do nothing but pad by zeros and
convolve with its own weight.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..units.contract.geometry import Geometry

_aten = torch.ops.aten
Borders = tuple[int, int, int, int]  # left, right, top, bottom
_LARGE = ((224, 224), (225, 112), (113, 300))


@dataclass(frozen=True)
class InputPadding:
    """A hook before the forward of a convolution that pads its map by zeros. Kept by copies and pickles.

    Attributes:
        kernel_size, stride, dilation: of the convolution.
        fixed: the borders, or None for TensorFlow's "same" padding.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    fixed: Borders | None = None

    def borders(self, height: int, width: int) -> Borders:
        """The zeros on the left, on the right, at the top and at the bottom of a map of this size."""
        if self.fixed is not None:
            return self.fixed
        rows, columns = (
            max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            for size, k, s, d in zip((height, width), self.kernel_size, self.stride, self.dilation, strict=True)
        )
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2

    def pad(self, x: Tensor) -> Tensor:
        """(..., H, W) with its borders."""
        return F.pad(x, self.borders(x.shape[-2], x.shape[-1]))

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The arguments of the module's call, the first one padded."""
        if args:
            return (self.pad(args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, kwargs | {name: self.pad(kwargs[name])}


@dataclass(frozen=True)
class PaddedConvolution:
    """What a subclass of `nn.Conv2d` computes: zeros around its map, then the convolution of this geometry."""

    geometry: Geometry
    padding: InputPadding | None


def read_padding(conv: nn.Module) -> PaddedConvolution | None:
    """What a subclass of `nn.Conv2d` computes, or None if it does anything but pad and convolve."""
    if not isinstance(conv, nn.Conv2d) or set(conv._parameters) != {"weight", "bias"}:
        return None
    if [*conv.buffers()] or len([*conv.parameters()]) > 2 or _extent(conv) is None:
        return None
    sizes = [*_LARGE, *_near(conv)]
    try:
        seen = {size: _run(conv, [size])[0] for size in sizes}
        again = [_run(conv, order, training=True) for order in (sizes, sizes[::-1])]  # in case it remembers a size
    except Exception:  # whatever it raises, it is no convolution of any map
        return None
    if again != [[*seen.values()], [*seen.values()][::-1]] or None in seen.values():
        return None
    found = [each for each in seen.values() if each is not None]
    if any(geometry != found[0][0] for geometry, _ in found):
        return None
    return _classify(found[0][0], {size: each[1] for size, each in zip(seen, found, strict=True)})


def _classify(geometry: Geometry, borders: dict[tuple[int, int], Borders]) -> PaddedConvolution | None:
    kind = (geometry.kernel_size, geometry.stride, geometry.dilation)
    left, right, top, bottom = fixed = next(iter(borders.values()))
    if all(each == fixed for each in borders.values()):
        if (left, top) == (right, bottom):  # as much on both sides: an ordinary padding
            rows, columns = cast(tuple[int, int], geometry.padding)
            whole = geometry.arguments() | {"padding": (rows + top, columns + left)}
            return PaddedConvolution(Geometry(**whole), None)
        return PaddedConvolution(geometry, InputPadding(*kind, fixed))
    same = InputPadding(*kind)
    if all(each == same.borders(*size) for size, each in borders.items()):
        return PaddedConvolution(geometry, same)
    return None


def _extent(conv: nn.Conv2d) -> tuple[int, int] | None:
    """The pixels that a kernel spans, or None if its attributes were tampered with."""
    if tuple(conv.weight.shape[2:]) != tuple(conv.kernel_size):
        return None
    rows, columns = (d * (k - 1) + 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
    return rows, columns


def _near(conv: nn.Conv2d) -> list[tuple[int, int]]:
    """Sizes with every remainder of the stride, from the smallest map that a convolution without padding takes."""
    rows, columns = _extent(conv) or (1, 1)
    steps = 2 * max(conv.stride) + 1
    return [(rows + i, columns + (3 * i + 1) % steps) for i in range(steps)]


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Sequence[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def _run(
    conv: nn.Conv2d, sizes: Sequence[tuple[int, int]], *, training: bool = False
) -> list[tuple[Geometry, Borders] | None]:
    """What a copy with the same weight does with maps of these sizes, one after the other: no image, so no work."""
    twin = copy.deepcopy(conv, {id(parameter): parameter for parameter in conv.parameters()}).train(training)
    results = []
    for height, width in sizes:
        x = torch.empty(0, conv.in_channels, height, width, dtype=conv.weight.dtype, device=conv.weight.device)
        with torch.no_grad(), _Operators() as seen:
            result = type(twin).forward(twin, x)
        results.append(_read(conv, seen.calls) if isinstance(result, Tensor) else None)
    return results


def _read(conv: nn.Conv2d, calls: list[tuple[Any, Sequence[Any]]]) -> tuple[Geometry, Borders] | None:
    *before, (last, args) = calls
    if last is not _aten.convolution.default or args[1] is not conv.weight or args[2] is not conv.bias or args[6]:
        return None
    borders = [0, 0, 0, 0]
    for func, given in before:
        if func is not _aten.constant_pad_nd.default or any(given[2:]) or len(given[1]) > 4:
            return None
        for side, amount in enumerate(given[1]):
            borders[side] += amount
    pairs = [tuple(args[index]) for index in (3, 4, 5)]
    if min(borders) < 0 or any(len(pair) != 2 for pair in pairs):
        return None
    stride, padding, dilation = pairs
    kernel, bias = tuple(conv.kernel_size), conv.bias is not None
    sizes = (conv.in_channels, conv.out_channels, kernel, stride, padding, dilation, args[8])
    return Geometry(*sizes, bias), (borders[0], borders[1], borders[2], borders[3])  # type: ignore[arg-type]
