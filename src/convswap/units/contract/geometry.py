"""The geometry of a convolution: the nine arguments of an `nn.Conv2d`, and a plain convolution made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Geometry:
    """The constructor arguments of an `nn.Conv2d`, without device and dtype."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"

    @classmethod
    def of(cls, conv: nn.Module) -> Geometry:
        """Read the geometry of an `nn.Conv2d`, or of anything with its attribute names."""
        c = cast(Any, conv)
        padding = c.padding if isinstance(c.padding, str) else tuple(c.padding)
        return cls(
            c.in_channels,
            c.out_channels,
            tuple(c.kernel_size),
            tuple(c.stride),
            padding,
            tuple(c.dilation),
            c.groups,
            c.bias is not None,
            c.padding_mode,
        )

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that build a module of this geometry."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def describe(self) -> str:
        """One short line for tables: `64->128 3x3 s2 g4`."""
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        text = f"{self.in_channels}->{self.out_channels} {kh}x{kw}"
        if (sh, sw) != (1, 1):
            text += f" s{sh}" if sh == sw else f" s{sh}x{sw}"
        if (dh, dw) != (1, 1):
            text += f" d{dh}" if dh == dw else f" d{dh}x{dw}"
        if self.groups > 1:
            text += " depthwise" if self.groups == self.in_channels == self.out_channels else f" g{self.groups}"
        return text if self.padding_mode == "zeros" else f"{text} {self.padding_mode}"


def plain_conv(
    geometry: Geometry, weight: Tensor, bias: Tensor | None, *, like: Tensor, train: bool = False
) -> nn.Conv2d:
    """An `nn.Conv2d` of a geometry holding these values, with the device, dtype and trainability of `like`.

    The kernel size, channels and presence of a bias are read off `weight` and `bias`.
    """
    arguments = geometry.arguments() | {
        "in_channels": weight.shape[1] * geometry.groups,
        "out_channels": weight.shape[0],
        "kernel_size": tuple(weight.shape[2:]),
        "bias": bias is not None,
    }
    conv = nn.utils.skip_init(nn.Conv2d, **arguments, device=like.device, dtype=like.dtype)
    with torch.no_grad():
        conv.weight.copy_(weight)
        if bias is not None and conv.bias is not None:
            conv.bias.copy_(bias)
    conv.requires_grad_(like.requires_grad)
    if like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous():
        conv.to(memory_format=torch.channels_last)
    return conv.train(train)
