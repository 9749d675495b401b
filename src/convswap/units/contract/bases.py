"""The unit contract: what a module must offer to stand where an `nn.Conv2d` stands.

Two bases carry it. A **weight unit** (`WeightUnit`) is one ordinary convolution whose weight is a function of
its parameters; it writes `effective_weight()` and nothing else. A **feature unit** (`FeatureUnit`) is anything
else with a convolution's geometry; it writes `forward()`, and `fuse()` if it has a cheaper equal form.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ...errors import UsageError

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


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


@runtime_checkable
class Unit(Protocol):
    """What surgery, training and fusion rely on. Both bases below provide it."""

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


class _FromConv:
    """Building a unit in the place of a convolution: same geometry, device, dtype, mode and trainability."""

    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        """Why the unit cannot stand there, or None. Override to refuse geometries."""
        return None

    @classmethod
    def warm_start_for(cls, conv: nn.Conv2d, **options: Any) -> Literal["exact", "approximate", "none"] | None:
        """What `from_conv` keeps of this convolution. None: what the registry row declares. Override if it varies."""
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
        initialisation scheme is kept and paired seeds start alike; all else starts as the paper says.
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
    """Carry a frozen convolution over: a unit whose weight was frozen is frozen whole."""
    module = cast(nn.Module, unit)
    if not conv.weight.requires_grad:
        module.requires_grad_(False)
        if conv.bias is not None and conv.bias.requires_grad and isinstance(getattr(module, "bias", None), Tensor):
            cast(Tensor, module.bias).requires_grad_(True)
    elif conv.bias is not None and not conv.bias.requires_grad and isinstance(getattr(module, "bias", None), Tensor):
        module.bias.requires_grad_(False)
    return unit


class _Constants:
    """Constant matrices that follow the module's device and keep full precision.

    A plain non-persistent buffer is rounded by `.half()`, is left uninitialised by `to_empty()`, and stays on
    the meta device after `load_state_dict(assign=True)`. These are rebuilt from float64 instead.
    """

    def constants(self) -> dict[str, Tensor]:
        """The unit's constant matrices in float64 on the CPU, by buffer name. Override; cache the work."""
        return {}

    def register_constants(self) -> None:
        """Register every constant as a non-persistent buffer. Call once, at the end of `__init__`."""
        module = cast(nn.Module, self)
        for name, value in self.constants().items():
            module.register_buffer(name, self._placed(value), persistent=False)

    def _placed(self, value: Tensor) -> Tensor:
        weight = cast(Tensor, cast(Any, self).weight)
        return value.to(device=weight.device, dtype=compute_dtype(weight.dtype))

    def _replace_constants(self) -> None:
        module = cast(nn.Module, self)
        for name, value in self.constants().items():
            module._buffers[name] = self._placed(value)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[misc]
        self._replace_constants()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]
        # Loading by assignment changes the weight's device (off meta) or dtype behind `_apply`'s back.
        weight = cast(Tensor, cast(Any, self).weight)
        place = (weight.device, compute_dtype(weight.dtype))
        present = [cast(Tensor, cast(nn.Module, self)._buffers[name]) for name in self.constants()]
        if any((buffer.device, buffer.dtype) != place for buffer in present):
            self._replace_constants()


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision weights are formed in: at least float32, also under autocast."""
    return torch.promote_types(dtype, torch.float32)


class WeightUnit(_Constants, _FromConv, nn.Conv2d):
    """An ordinary convolution whose weight is a function of its parameters.

    `forward(x) = conv2d(x, effective_weight(), bias)` with stride, padding, dilation, groups and padding mode of
    `nn.Conv2d`. The parameter keeps the key `weight`, so a plain checkpoint loads strictly. The effective weight
    is formed once per forward, in at least float32 also under autocast.

    A subclass writes `effective_weight()`; where its map is invertible also `start_from(conv)`.
    """

    def effective_weight(self) -> Tensor:
        """The weight that is convolved with: (out_channels, in_channels/groups, kH, kW), differentiable."""
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
            exact = _double_copy(self)
            return plain_conv(
                Geometry.of(self), exact.effective_weight(), exact.bias, like=self.weight, train=self.training
            )


def _double_copy(module: M) -> M:
    """A float64 copy of a module, its constants exact; the module itself is untouched."""
    return copy.deepcopy(module).double()


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


class FeatureUnit(_FromConv, nn.Module):
    """A module with an `nn.Conv2d`'s constructor, attribute names and shapes that is not one convolution.

    A subclass calls `super().__init__()` with the geometry, writes `forward()` from stock convolutions where the
    mathematics allows (counters, pruners and exporters then see them), and has a parameter or property `weight`
    because some backbones read it. `fuse()` returns the cheapest equal form; here it is an independent copy.
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
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        mode = cast(Any, padding_mode)
        # nn.Conv2d validates and normalises; on the meta device it costs no memory.
        shape = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            False,
            mode,
            device="meta",
        )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = shape.kernel_size
        self.stride = shape.stride
        self.padding = shape.padding
        self.dilation = shape.dilation
        self.groups = groups
        self.padding_mode = padding_mode

    def fuse(self) -> nn.Module:
        """An independent copy: nothing can be folded."""
        return copy.deepcopy(self)

    def extra_repr(self) -> str:
        """The geometry, as `nn.Conv2d` prints it."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding not in ((0, 0), "valid"):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.padding_mode == "zeros" else f"{text}, padding_mode={self.padding_mode}"
