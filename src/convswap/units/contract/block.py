"""The contract of block units: what a module must offer to replace a residual block, stage or stem.

A **block unit** replaces more than one convolution: a residual block, a stage of blocks, or the stem. It knows the
input and output channels and the stride of its place, and for a stage how many blocks it held. It maps (N, in, H, W)
to (N, out, ceil(H / stride), ceil(W / stride)). A stem's output has the host's own size, however its pool rounds.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import nn

from ...errors import UsageError, check_whole
from ...hooks import Hooks
from .options import Configured
from .state import UnitState


@dataclass(frozen=True)
class Place:
    """The place where a block unit is to stand.

    Attributes:
        in_channels, out_channels: channels of the feature map before and after.
        stride: the factor by which height and width shrink, rounded up.
        depth: how many residual blocks stood there: 1 for a block, more for a stage.
        kind: what stood there.
        device, dtype, training: of the module that stood there.
    """

    in_channels: int
    out_channels: int
    stride: int = 1
    depth: int = 1
    kind: Literal["block", "stage", "stem"] = "block"
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    training: bool = True

    def arguments(self) -> dict[str, int]:
        """The constructor arguments of a block unit."""
        return {"in_channels": self.in_channels, "out_channels": self.out_channels, "stride": self.stride}

    def describe(self) -> str:
        """One short line for tables: `16->32 block s2`, `64->128 stage of 4 s2`."""
        what = f"stage of {self.depth}" if self.kind == "stage" else self.kind
        text = f"{self.in_channels}->{self.out_channels} {what}"
        return text if self.stride == 1 else f"{text} s{self.stride}"


class BlockUnit(UnitState, Configured, Hooks, nn.Module):
    """A module in the place of a residual block: (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)).

    A subclass writes `setup()`, which takes its options and builds its parameters, and `forward()`, from stock modules.
    `fuse()` returns the cheapest equal form. A unit for whole stages has an option `depth`, the number of blocks that
    the stage held.

    Raises:
        ValueError: a channel count or the stride is not a whole number of at least 1, or an option is not allowed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("stride", stride)):
            check_whole(name, value)
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self._set_up(options, device=device, dtype=dtype)

    @classmethod
    def supports(cls, place: Place, **options: Any) -> str | None:
        """Why the unit cannot stand there, or None. Override to refuse channels or strides."""
        return None

    @classmethod
    def at(cls, place: Place, **options: Any) -> Self:
        """Build the unit for a place, with its device, dtype and mode.

        Raises:
            ValueError: an option is not allowed, or `supports(place)` gives a reason.
        """
        reason = cls.supports(place, **options)
        if reason is not None:
            raise UsageError(f"{cls.__name__} cannot stand at {place.describe()}: {reason}")
        arguments = place.arguments() | cls.options_at(place) | options
        return cls(**arguments, device=place.device, dtype=place.dtype).train(place.training)

    @classmethod
    def options_at(cls, place: Place) -> dict[str, Any]:
        """Options that follow from the place if the caller gives none. A unit for stages returns its `depth`."""
        return {}

    def fuse(self) -> nn.Module:
        """An independent copy: nothing can be folded."""
        return copy.deepcopy(self)

    def extra_repr(self) -> str:
        """The place, and the options that differ from their defaults."""
        return self._with_options(f"{self.in_channels}, {self.out_channels}, stride={self.stride}")
