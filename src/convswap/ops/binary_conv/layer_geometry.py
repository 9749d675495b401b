"""The geometry of a layer: from the arguments of `nn.Conv2d` to the form of the operators."""

from __future__ import annotations

from typing import NamedTuple, Self

from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError, check_choice
from .geometry import check_groups


class LayerGeometry(NamedTuple):
    """Pairs are (rows, columns).

    `padding` is (left, right, top, bottom), of zeros. `border` is like it and padded by `mode` before packing.
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    border: tuple[int, int, int, int]
    mode: str

    @classmethod
    def of(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int],
        padding: int | tuple[int, int] | str,
        dilation: int | tuple[int, int],
        groups: int,
        padding_mode: str,
    ) -> Self:
        """From the arguments of `nn.Conv2d`.

        Raises:
            ValueError: one of them is not allowed.
        """
        check_choice("padding_mode", padding_mode, ("zeros", "reflect", "replicate", "circular"))
        kernel, steps = _pair("kernel_size", kernel_size, 1), _pair("stride", stride, 1)
        spread = _pair("dilation", dilation, 1)
        check_groups(in_channels, out_channels, groups)
        if padding == "same":
            if steps != (1, 1):
                raise UsageError(f"padding='same' is not allowed with stride={steps}; give stride 1")
            total = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
            (top, bottom), (left, right) = ((t // 2, t - t // 2) for t in total)
        elif padding == "valid":
            left = right = top = bottom = 0
        elif isinstance(padding, str):
            raise UsageError(f"padding={padding!r} is not allowed; give 'same', 'valid' or numbers")
        else:
            top, left = _pair("padding", padding, 0)
            bottom, right = top, left
        pads, none = (left, right, top, bottom), (0, 0, 0, 0)
        zeros = padding_mode == "zeros"
        return cls(in_channels, out_channels, kernel, steps, pads if zeros else none, spread, groups,
                   none if zeros else pads, padding_mode)  # fmt: skip

    def call(self) -> tuple[int, int, tuple[int, int], tuple[int, int, int, int], tuple[int, int], int]:
        """The operators' arguments: channels, stride, padding, dilation, groups."""
        return self.in_channels, self.out_channels, self.stride, self.padding, self.dilation, self.groups

    def pad(self, x: Tensor) -> Tensor:
        """x, (N, in, H, W), with the border of `mode`. The operators add zeros themselves.

        Raises:
            ValueError: x has another shape.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise UsageError(f"input of shape {tuple(x.shape)} is not allowed; give (N, {self.in_channels}, H, W)")
        return F.pad(x, self.border, mode=self.mode) if any(self.border) else x

    def __str__(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        pads = self.padding if self.mode == "zeros" else self.border
        text += f", padding={pads}, dilation={self.dilation}, groups={self.groups}"
        return text if self.mode == "zeros" else f"{text}, padding_mode={self.mode!r}"


def _pair(name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    if min(first, second) < least:
        raise UsageError(f"{name}={value!r} is not allowed; give numbers of at least {least}")
    return first, second
