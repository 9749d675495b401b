"""`PackedBinaryConv2d`: a binary convolution for inference, one bit a weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import FusionError, check_choice
from ...hooks import Hooks
from ...marks import Marked
from ..batch_norm import batch_norm_affine
from ..memory_format import is_channels_last
from . import native_calls
from .layer_geometry import LayerGeometry
from .operator import binary_conv2d, binary_pack, binary_to_nchw, register_flops
from .packing import pack_weight, unpack_weight, weight_shape, words_for
from .thresholds import batch_norm_threshold


class PackedBinaryConv2d(Marked, Hooks, nn.Module):
    """`y = relu?(scale * K? * conv(sign(norm(x)), signs) + bias)` on bits, for inference.

    sign is +1 from 0 on (-0 too), -1 below and for NaN. The signs' sum is an exact integer; scale and bias are applied
    in float32 (float64 in a float64 module). Zero padding pads the signs: nothing is added outside the image.
    With a folded BatchNorm NaN counts as a number below the threshold: -1, or +1 in the channels that `flip` turns
    (where the BatchNorm's own NaN would have the sign -1). Infinities compare as numbers. K spreads NaN and infinity
    over the windows that see them.

    The parameters, which do not train, are `scale` (out,) and `bias` (out,) if there is one. The buffers are
    `weight_bits` (int64, 64 channels a word, layout in `csrc/binary_conv.h`: one bit a weight, with the inputs of a
    group rounded up to 64 and its outputs up to 8). A folded BatchNorm adds `threshold` and `flip` (in,):
    `sign(norm(x)) = (x >= threshold) xor flip`. With K there are also `norm_scale` and `norm_shift` (in,). The result
    has the precision of `scale` (under autocast that of autocast) and the memory format of the input.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: those of
            `nn.Conv2d`.
        norm: whether a BatchNorm in front of the sign is folded in.
        input_scale: `"K"` multiplies by XNOR-Net's map: the mean of |norm(x)| over a group's channels, then over the
            kernel's window (constant 1/(kH kW), zeros outside), with the same stride, padding and dilation.
        relu: whether a rectifier follows.
        expand: `"once"` keeps the weights as the int8 numbers that some CPU paths (AMX, VNNI) multiply, instead of
            expanding the bits at every call. This takes 8 times the memory. They are in no state_dict, pickle or
            exported program, but made again from the bits. After writing into `weight_bits` in place call
            `expand_weight()`.

    Raises:
        ValueError: an argument is not allowed.
    """

    marked_settings = ("norm", "input_scale", "relu")

    weight_bits: Tensor
    scale: nn.Parameter
    bias: nn.Parameter | None
    threshold: Tensor | None
    flip: Tensor | None
    norm_scale: Tensor | None
    norm_shift: Tensor | None
    panels: Tensor | None

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
        norm: bool = False,
        input_scale: str = "none",
        relu: bool = False,
        expand: str = "call",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("input_scale", input_scale, ("none", "K"))
        check_choice("expand", expand, ("call", "once"))
        self.layer = LayerGeometry.of(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        self.norm, self.input_scale, self.relu, self.expand = norm, input_scale, relu, expand
        place: dict[str, Any] = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        shape = weight_shape(out_channels, in_channels, self.layer.kernel_size, groups)
        self.register_buffer("weight_bits", torch.zeros(shape, dtype=torch.int64, device=device))
        self.scale = _frozen(torch.ones(out_channels, **place))
        self.bias = _frozen(torch.zeros(out_channels, **place)) if bias else None
        self.register_buffer("threshold", torch.zeros(in_channels, **place) if norm else None)
        self.register_buffer("flip", torch.zeros(in_channels, dtype=torch.bool, device=device) if norm else None)
        affine = norm and input_scale == "K"
        self.register_buffer("norm_scale", torch.ones(in_channels, **place) if affine else None)
        self.register_buffer("norm_shift", torch.zeros(in_channels, **place) if affine else None)
        # Not a buffer: torch.export would keep a non-persistent buffer among a program's constants.
        self.panels = None
        register_flops()

    @classmethod
    def from_weight(
        cls,
        weight: Tensor,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        norm: nn.BatchNorm2d | None = None,
        input_scale: str = "none",
        relu: bool = False,
        expand: str = "call",
    ) -> Self:
        """The packed form of a convolution with the signs of `weight`.

        Args:
            weight: (out, in/groups, kH, kW), of any floating precision; +1 from 0 on, else -1.
            scale: (out,), 1 if None.
            bias: (out,) or None.
            norm: the BatchNorm in front of the sign, folded with its running statistics.

        The other arguments are those of the class. Device and precision are those of `weight`; thresholds of a
        BatchNorm in less than float32 are kept in float32.

        Raises:
            ValueError: an argument is not allowed.
            FusionError: the norm keeps no running statistics.
        """
        out, per_group, *kernel = weight.shape
        module = cls(
            per_group * groups,
            out,
            (kernel[0], kernel[1]),
            stride,
            padding,
            dilation,
            groups,
            bias is not None,
            padding_mode,
            norm=norm is not None,
            input_scale=input_scale,
            relu=relu,
            expand=expand,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            module.weight_bits = pack_weight(weight.detach(), groups)
            if scale is not None:
                module.scale = _frozen(scale.detach().to(weight.dtype).reshape(out).clone())
            if bias is not None:
                module.bias = _frozen(bias.detach().to(weight.dtype).clone())
            if norm is not None:
                module._fold_norm(norm)
        module.expand_weight()
        return module.train(False)

    def _fold_norm(self, norm: nn.BatchNorm2d) -> None:
        self.threshold, self.flip = batch_norm_threshold(norm)
        if self.norm_scale is not None and norm.running_mean is not None and norm.running_var is not None:
            slope, shift = (part.detach() for part in batch_norm_affine(norm))
            self.norm_scale, self.norm_shift = slope.to(self.threshold.dtype), shift.to(self.threshold.dtype)

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.layer.in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.layer.out_channels

    @property
    def kernel_size(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.layer.kernel_size

    @property
    def stride(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.layer.stride

    @property
    def dilation(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.layer.dilation

    @property
    def groups(self) -> int:
        """As of `nn.Conv2d`."""
        return self.layer.groups

    @property
    def weight(self) -> Tensor:
        """The weight that is multiplied, `scale * signs`: (out, in/groups, kH, kW), unpacked at every call."""
        signs = unpack_weight(self.weight_bits, self.out_channels, self.in_channels, self.scale.dtype)
        return signs * self.scale[:, None, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        padded = self.layer.pad(x)
        words = binary_pack(padded, self.threshold, self.flip, self.layer.groups)
        if self.input_scale == "none":
            return self.convolve(words, like=x)
        return self.convolve(words, like=x, map_=self.input_map(padded).to(self.scale.dtype))

    def convolve(self, words: Tensor, like: Tensor, map_: Tensor | None = None) -> Tensor:
        """Packed activations -> (N, out, H', W') in the memory format of `like`; map_ is K (N, groups, H', W')."""
        layer, scale, bias, relu, panels = self.layer, self.scale, self.bias, self.relu, self.current_panels()
        if map_ is None or layer.groups == 1:
            one = None if map_ is None else map_[:, 0]
            y = binary_conv2d(words, self.weight_bits, scale, bias, one, panels, *layer.call(), relu)
        else:
            y = binary_conv2d(words, self.weight_bits, scale, None, None, panels, *layer.call(), False)
            y = y * map_.repeat_interleave(layer.out_channels // layer.groups, 1)
            y = y if bias is None else y + bias[:, None, None]
            y = y.relu() if relu else y
        return _as_input(y, like)

    def current_panels(self) -> Tensor | None:
        """The expanded weights; none in exported programs, which hold the bits alone."""
        return None if torch.compiler.is_exporting() else self.panels

    def input_map(self, x: Tensor) -> Tensor:
        """The map K (N, groups, H', W') of an input padded already (unless with zeros), in at least float32."""
        layer = self.layer
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.norm_scale is not None and self.norm_shift is not None:
            values = values * self.norm_scale[:, None, None] + self.norm_shift[:, None, None]
        means = values.abs().unflatten(1, (layer.groups, -1)).mean(2).flatten(0, 1)[:, None]
        padded, (rows, columns) = F.pad(means, layer.padding), layer.kernel_size
        if layer.dilation == (1, 1):
            k = F.avg_pool2d(padded, layer.kernel_size, layer.stride)
        else:
            sums = _window_sums(padded, 2, rows, layer.stride[0], layer.dilation[0])
            k = _window_sums(sums, 3, columns, layer.stride[1], layer.dilation[1]) / (rows * columns)
        return k[:, 0].unflatten(0, (-1, layer.groups))

    @torch.no_grad()
    def fold_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Absorb `y -> scale * y + shift` per channel behind this module, each (out,).

        Raises:
            FusionError: a rectifier stands between.
        """
        if self.relu:
            raise FusionError("a scale behind the rectifier of a packed binary convolution cannot be folded into it")
        bias = torch.zeros_like(self.scale) if self.bias is None else self.bias
        self.bias = _frozen((bias.double() * scale.double() + shift.double()).to(bias.dtype))
        self.scale = _frozen((self.scale.double() * scale.double()).to(bias.dtype))

    def why_not_native(self, size: Sequence[int] = (14, 14)) -> str | None:
        """Why torch computes this layer on a CPU for an input of this size; None when a C++ kernel does."""
        return self._plan(size).reason

    def path(self, size: Sequence[int] = (14, 14)) -> str:
        """The name of the path that now computes this layer on a CPU for an input of this size."""
        return self._plan(size).name

    def _plan(self, size: Sequence[int]) -> native_calls.Plan:
        layer = self.layer
        least = (d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        rows, columns = (max(given, needed) for given, needed in zip(size, least, strict=True))
        words = 1, rows, columns, layer.groups * words_for(layer.in_channels // layer.groups)
        return native_calls.plan(words, self.weight_bits.shape, *layer.call())

    @torch.no_grad()
    def expand_weight(self) -> None:
        """Make the int8 weights of `expand="once"` from the bits, if this machine's best path uses them."""
        self.panels = None
        if self.expand == "once" and self.weight_bits.device.type == "cpu":
            self.panels = native_calls.expand(self._plan((14, 14)), self.weight_bits.contiguous())

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.expand_weight()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.panels = None
        super()._apply(fn, recurse)
        self.expand_weight()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "panels": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        register_flops()
        self.expand_weight()

    def extra_repr(self) -> str:
        """The geometry, as `nn.Conv2d` prints it, and the options."""
        text = f"{self.layer}, bias={self.bias is not None}, norm={self.norm}, input_scale={self.input_scale!r}"
        return f"{text}, relu={self.relu}, expand={self.expand!r}"


def _window_sums(x: Tensor, dim: int, size: int, stride: int, dilation: int) -> Tensor:
    """Sums of `size` values along one dimension, `dilation` apart, at every `stride`-th place."""
    length = stride * ((x.shape[dim] - dilation * (size - 1) - 1) // stride) + 1
    lead = (slice(None),) * dim
    total = x[(*lead, slice(0, length, stride))]
    for tap in range(1, size):
        total = total + x[(*lead, slice(tap * dilation, tap * dilation + length, stride))]
    return total


def _frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def _as_input(y: Tensor, x: Tensor) -> Tensor:
    """y, in autocast's precision under autocast and in the memory format of x."""
    device = x.device.type
    if device != "meta" and y.dtype != torch.float64 and torch.is_autocast_enabled(device):
        y = y.to(torch.get_autocast_dtype(device))
    one = x.shape[1] == 1 or (x.shape[2] == 1 and x.shape[3] == 1)
    if is_channels_last(x) or (one and x.stride(1) == 1) or y.is_contiguous():
        return y
    # compilers write their own copy, and may merge it with the next operation
    own = y.device.type == "cpu" and y.dtype == torch.float32 and not torch.compiler.is_compiling()
    return binary_to_nchw(y) if own else y.contiguous()
