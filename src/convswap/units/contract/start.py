"""Standing in for a convolution: what units offer, building one from an `nn.Conv2d`, and its start."""

from __future__ import annotations

from typing import Any, Protocol, Self, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ...errors import UsageError
from .geometry import Geometry

T = TypeVar("T")


@runtime_checkable
class Unit(Protocol):
    """The interface that surgery, training and fusion rely on. `WeightUnit` and `FeatureUnit` provide it."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    weight: Tensor

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **options: Any) -> Self:
        """A unit with that convolution's geometry, started from its function."""
        ...

    @classmethod
    def fresh_like(cls, conv: nn.Conv2d, **options: Any) -> Self:
        """A unit with that convolution's geometry, started as for training from scratch."""
        ...

    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        """Why the unit cannot stand there, or None."""
        ...

    def fuse(self) -> nn.Module:
        """The inference form: a new module that computes the same function in eval mode."""
        ...


class FromConv:
    """Building a unit in the place of a convolution: same geometry, device, dtype, mode and trainability."""

    @property
    def geometry(self) -> Geometry:
        """The nine arguments of `nn.Conv2d`. Within `setup` they are as given to the constructor, `bias` included."""
        asked = self.__dict__.get("_asked")
        return Geometry.of(cast(nn.Module, self)) if asked is None else asked

    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        """Why the unit cannot stand there, or None. Override to refuse geometries."""
        return None

    @classmethod
    def _build(cls, conv: nn.Conv2d, options: dict[str, Any]) -> Self:
        reason = cls.supports(conv, **options)
        if reason is not None:
            raise UsageError(f"{cls.__name__} cannot replace {conv}: {reason}")
        place = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        unit = cls(**Geometry.of(conv).arguments(), **options, **place)
        return cast(Self, cast(nn.Module, unit).train(conv.training))

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **options: Any) -> Self:
        """Build a unit with `conv`'s geometry that starts from its function, as far as `warm_start` declares.

        Raises:
            ValueError: an option is not allowed, or `supports(conv)` gives a reason.
        """
        unit = cls._build(conv, options)
        with torch.no_grad():
            unit.start_from(conv)
        return _match_trainability(unit, conv)

    @classmethod
    def fresh_like(cls, conv: nn.Conv2d, **options: Any) -> Self:
        """Build a unit with `conv`'s geometry for training from scratch.

        The unit's `weight` takes the values the host drew for the convolution, so the host's own
        initialisation scheme is kept and paired seeds start equal. Everything else starts as the paper says.
        """
        unit = cls._build(conv, options)
        with torch.no_grad():
            unit.copy_initial(conv)
        return _match_trainability(unit, conv)

    def start_from(self, conv: nn.Conv2d) -> None:
        """Set the parameters so that the unit computes `conv`'s function (runs under `no_grad`)."""
        self.copy_initial(conv)

    def copy_initial(self, conv: nn.Conv2d) -> None:
        """Copy the host's freshly drawn weight and bias as they are (runs under `no_grad`)."""
        unit = cast(nn.Conv2d, self)
        unit.weight.copy_(conv.weight)
        if conv.bias is not None and unit.bias is not None:
            unit.bias.copy_(conv.bias)


def _match_trainability(unit: T, conv: nn.Conv2d) -> T:
    """Carry a frozen convolution over: the whole unit is frozen if the convolution's weight was."""
    module = cast(nn.Conv2d, unit)
    if not conv.weight.requires_grad:
        module.requires_grad_(False)
        if conv.bias is not None and conv.bias.requires_grad and module.bias is not None:
            module.bias.requires_grad_(True)
    elif conv.bias is not None and not conv.bias.requires_grad and module.bias is not None:
        module.bias.requires_grad_(False)
    return unit
