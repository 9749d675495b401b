"""Feature units: anything else with a convolution's geometry."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...hooks import Hooks
from .folded import RefusesFolding
from .geometry import Geometry
from .options import Configured
from .start import FromConv
from .state import UnitState


class FeatureUnit(UnitState, RefusesFolding, Configured, FromConv, Hooks, nn.Module):
    """A module with an `nn.Conv2d`'s constructor, attribute names and shapes that is not one convolution.

    A subclass writes `setup()`, which takes its options and builds its parameters, and `forward()`, from stock
    convolutions where the mathematics allows (counters, pruners and exporters then see them). It has a parameter or
    property `weight`, because some backbones read it, and a `bias`, which may be None. `fuse()` returns the cheapest
    equal form; here it is an independent copy.

    Raises:
        ValueError: an argument or an option is not allowed, or `setup` leaves the unit without `weight` or `bias`.
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
        super().__init__()
        if not isinstance(bias, bool | int):
            raise UsageError(f"bias={bias!r} is not allowed; choose one of True, False")
        # nn.Conv2d validates and normalises; on the meta device it costs no memory.
        shape = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            cast(Any, padding_mode),
            device="meta",
        )
        asked = Geometry.of(shape)
        self.in_channels, self.out_channels = asked.in_channels, asked.out_channels
        self.kernel_size, self.stride, self.padding = asked.kernel_size, asked.stride, asked.padding
        self.dilation, self.groups, self.padding_mode = asked.dilation, asked.groups, asked.padding_mode
        self._asked = asked
        self._set_up(options, device=device, dtype=dtype)
        del self._asked
        self._check_read("weight", Tensor)
        self._check_read("bias", Tensor, type(None))

    def _check_read(self, name: str, *kinds: type) -> None:
        """Backbones and surgery read these attributes as they do on a convolution."""
        try:
            found = getattr(self, name)
        except AttributeError:
            found = NotImplemented
        if not isinstance(found, kinds):
            none = " (or bias = None)" if name == "bias" else ""
            raise UsageError(
                f"{type(self).__name__} has no {name!r}; make a parameter of that name in setup{none}, or write a "
                "property that gives the inner one"
            )

    def fuse(self) -> nn.Module:
        """An independent copy: nothing can be folded."""
        return copy.deepcopy(self)

    def extra_repr(self) -> str:
        """The geometry, as `nn.Conv2d` prints it, and the options that differ from their defaults."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding not in ((0, 0), "valid"):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if not self.geometry.bias:
            text += ", bias=False"
        return self._with_options(text if self.padding_mode == "zeros" else f"{text}, padding_mode={self.padding_mode}")
