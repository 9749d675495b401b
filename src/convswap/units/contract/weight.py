"""Weight units: one ordinary convolution whose weight is a function of its parameters."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ...hooks import Hooks
from .folded import RefusesFolding
from .geometry import Geometry, plain_conv
from .options import Configured
from .precision import Constants, double_copy
from .start import FromConv
from .state import UnitState


class WeightUnit(UnitState, RefusesFolding, Configured, Constants, FromConv, Hooks, nn.Conv2d):
    """An ordinary convolution whose weight is a function of its parameters.

    `forward(x) = conv2d(x, effective_weight(), bias)` with stride, padding, dilation, groups and padding mode of
    `nn.Conv2d`. A plain checkpoint loads strictly: the unit then starts from it, as `UnitState` says. The effective
    weight is formed once per forward, in at least float32 also under autocast.

    A subclass writes `effective_weight()`. Options and further parameters go in `setup`, where `weight` and `bias` are
    already drawn. If its map is invertible, it also writes `start_from(conv)`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            cast(Any, padding_mode),
            device=device,
            dtype=dtype,
        )
        self._set_up(options, device=device, dtype=dtype)

    def effective_weight(self) -> Tensor:
        """The weight of the convolution: (out_channels, in_channels/groups, kH, kW), differentiable."""
        raise NotImplementedError(f"{type(self).__name__} must write effective_weight()")

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, H, W), or (C, H, W), with the effective weight."""
        device = input.device.type
        if device == "meta" or not torch.is_autocast_enabled(device):
            weight = self.effective_weight()
            weight = weight if weight.dtype == self.weight.dtype else weight.to(self.weight.dtype)
        else:
            with torch.autocast(device, enabled=False):
                weight = self.effective_weight()
        return self._conv_forward(input, weight, self.bias)

    def fuse(self) -> nn.Conv2d:
        """A plain `nn.Conv2d` of the effective weight, formed in float64 and cast last."""
        with torch.no_grad():
            exact = double_copy(self)
            return plain_conv(
                Geometry.of(self), exact.effective_weight(), exact.bias, like=self.weight, train=self.training
            )

    def extra_repr(self) -> str:
        """The geometry, as `nn.Conv2d` prints it, and the options that differ from their defaults."""
        return self._with_options(super().extra_repr())
