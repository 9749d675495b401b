"""The group sum of the IC neuron: channel sums, then a box filter on one map per group; and adding it back."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..contract.geometry import Geometry
from ..contract.precision import compute_dtype
from ..support.padding import convolve, margins, pad

_FEW = 8192  # pixels in a batch


class GroupSum(nn.Module):
    """`s = conv(x, ones)` with a convolution's geometry, one map per group: (N, in, H, W) -> (N, groups, H', W').

    The channels of a group are summed first, accumulated in at least float32. The box filter then runs on that single
    map, first rows and then columns, by adding shifted slices. A convolution with ones would cost the layer's own
    input width, and even a one-channel convolution is far slower on a CPU than the slices (backward: 90x).
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.margins = margins(geometry.kernel_size, geometry.dilation, geometry.padding)  # as F.pad takes them
        (kh, kw), (right, left, lower, upper) = geometry.kernel_size, self.margins
        self.poolable = (  # what F.avg_pool2d can do
            geometry.groups == 1
            and geometry.padding_mode == "zeros"
            and geometry.dilation == (1, 1)
            and right == left <= kw // 2
            and lower == upper <= kh // 2
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, groups, H', W') in at least float32."""
        dtype, groups = compute_dtype(x.dtype), self.geometry.groups
        if groups == self.geometry.in_channels:
            total = x.to(dtype)
        elif groups == 1 and dtype != x.dtype and _own_backward():
            total = cast(Tensor, _ChannelSum.apply(x, dtype))
        elif groups == 1:
            total = x.sum(1, keepdim=True, dtype=dtype)
        else:
            total = x.unflatten(1, (groups, -1)).sum(2, dtype=dtype)
        total = pad(total, self.margins, self.geometry.padding_mode)
        for axis in (0, 1):
            total = _box(total, axis + 2, *(pair[axis] for pair in self._steps()))
        return total

    def add_to(self, y: Tensor, x: Tensor, added: Tensor) -> Tensor:
        """`y + added[0] s + added[1]` for inference. y is the caller's own and may be overwritten.

        For few pixels on a CPU the calls cost more than the sums, so this form makes fewer calls.
        """
        eager = not torch.compiler.is_compiling() and not torch.jit.is_tracing()  # a graph is one for all modes
        few = eager and x.device.type == "cpu" and x.numel() < _FEW * x.shape[1]
        exact = y.dtype == x.dtype == compute_dtype(x.dtype) and not torch.is_grad_enabled()
        if not (few and exact and self.poolable):
            return add_scaled_sum(y, self(x), added[0], added[1], own=True)
        size, border = self.geometry.kernel_size, (self.margins[2], self.margins[0])
        channel_sum = x.sum(1, keepdim=True)
        s = F.avg_pool2d(channel_sum, size, self.geometry.stride, border, divisor_override=1)
        scale, shift = added[:, :, None, None]
        return y.addcmul_(s, scale).add_(shift)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of this geometry: (N, in, H, W) -> (N, out, H', W')."""
        return convolve(self.geometry, x, weight, bias)

    def _steps(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        return self.geometry.kernel_size, self.geometry.stride, self.geometry.dilation


def _box(x: Tensor, dim: int, size: int, stride: int, dilation: int) -> Tensor:
    """Sums of `size` values along one dimension, `dilation` apart, every `stride`."""
    length = stride * ((x.shape[dim] - dilation * (size - 1) - 1) // stride) + 1
    lead = (slice(None),) * dim
    taps = [(*lead, slice(tap * dilation, tap * dilation + length, stride)) for tap in range(size)]
    if _own_backward():
        return cast(Tensor, _SumOfSlices.apply(x, taps))
    return _sum_of_slices(x, taps)


def _sum_of_slices(x: Tensor, taps: list[tuple[slice, ...]]) -> Tensor:
    total = x[taps[0]]
    for tap in taps[1:]:
        total = total + x[tap]
    return total


class _ChannelSum(torch.autograd.Function):
    """`x.sum(1)` of a half-precision x in more precision. Its gradient is a dense tensor of x's own kind.

    Autograd alone would return a float32 view without memory, and adding that to the convolution's gradient of
    the same x takes up to 50 times as long on a CPU as adding a dense one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype) -> Tensor:
        if x.device.type != "cpu":
            return x.sum(1, keepdim=True, dtype=dtype)
        # A product with ones accumulates in float32 like the sum, rounds once, and is three times as fast here.
        images, channels, height, width = x.shape
        if _is_channels_last(x):
            rows = x.permute(0, 2, 3, 1).reshape(images * height * width, channels)
            return (rows @ rows.new_ones(channels, 1)).reshape(images, 1, height, width).to(dtype)
        planes = x.reshape(images, channels, height * width)
        return (x.new_ones(1, channels) @ planes).reshape(images, 1, height, width).to(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x = inputs[0]
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.format = torch.channels_last if _is_channels_last(x) else torch.contiguous_format

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(ctx.dtype).expand(ctx.shape).contiguous(memory_format=ctx.format), None


class _SumOfSlices(torch.autograd.Function):
    """`_sum_of_slices`, whose backward pass adds into one buffer instead of making one per slice."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, taps: list[tuple[slice, ...]]) -> Tensor:
        return _sum_of_slices(x, taps) if len(taps) > 1 else x[taps[0]].clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shape, ctx.taps = inputs[0].shape, inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.new_zeros(ctx.shape)
        for tap in ctx.taps:
            total[tap].add_(gradient)
        return total, None


def add_scaled_sum(y: Tensor, total: Tensor, scale: Tensor, shift: Tensor | None, *, own: bool = False) -> Tensor:
    """`y + scale s + shift` in y's precision and memory layout, without a temporary of y's size for one group.

    Args:
        y: (N, out, H, W).
        total: s, (N, groups, H, W), in at least float32.
        scale: (out,), in at least float32.
        shift: (out,) or None.
        own: whether nobody else needs y, so that it may be overwritten without autograd.
    """
    with _without_autocast(y):
        if total.shape[1] > 1:
            return _add_by_group(y, total, scale, shift)
        flat = _flat(y)
        if _own_backward():
            added = cast(Tensor, _AddScaledSum.apply(flat, total, scale, shift))
        else:
            overwrite = own and not torch.is_grad_enabled() and not torch.jit.is_tracing()
            added = _add_product(flat, *_factors(total, scale, shift, y.dtype), overwrite=overwrite)
        # Views made here, by autograd's own operations, may be overwritten; views made inside the Function may not.
        images, out, height, width = y.shape
        if flat.dim() == 2:
            return added.reshape(images, height, width, out).permute(0, 3, 1, 2)
        return added.reshape(images, out, height, width)


class _AddScaledSum(torch.autograd.Function):
    """`_add_product` with a shorter backward pass: two products with the gradient, no temporary of its size.

    Autograd alone would also form the gradient of the constant row of `_factors`, the most expensive of all.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(flat: Tensor, total: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
        return _add_product(flat, *_factors(total, scale, shift, flat.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, total, scale, shift = inputs
        ctx.save_for_backward(total, scale)
        ctx.shift_dtype = None if shift is None else shift.dtype

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        total, scale = ctx.saved_tensors
        images, _, height, width = total.shape
        factors = total.to(gradient.dtype).reshape(images, 1, height * width)
        if ctx.shift_dtype is not None:
            factors = torch.cat([factors, torch.ones_like(factors)], 1)
        w = scale.to(gradient.dtype)
        if gradient.dim() == 2:
            for_s, for_right = gradient @ w, factors.transpose(0, 1).reshape(factors.shape[1], len(gradient)) @ gradient
        else:
            for_s, for_right = w @ gradient, (factors @ gradient.transpose(1, 2)).sum(0)
        for_shift = None if ctx.shift_dtype is None else for_right[1].to(ctx.shift_dtype)
        return gradient, for_s.reshape(total.shape).to(total.dtype), for_right[0].to(scale.dtype), for_shift


def _own_backward() -> bool:
    """Does a custom Function pay here? It is useless without gradients, and compilers and tracers cannot read it."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _flat(y: Tensor) -> Tensor:
    """(N, out, H, W) as its memory lies: rows (N H W, out) for channels_last, else planes (N, out, H W)."""
    images, out, height, width = y.shape
    if _is_channels_last(y):
        return y.permute(0, 2, 3, 1).reshape(images * height * width, out)
    return y.reshape(images, out, height * width)  # no -1: it is ambiguous for an empty batch


def _add_product(flat: Tensor, left: Tensor, right: Tensor, overwrite: bool = False) -> Tensor:
    """The output of `_flat` plus the product of (N, k, H W), transposed, and (k, out)."""
    if flat.dim() == 2:
        add_rows = flat.addmm_ if overwrite else flat.addmm
        return add_rows(left.transpose(0, 1).reshape(left.shape[1], flat.shape[0]).t(), right)
    add_planes = flat.baddbmm_ if overwrite else flat.baddbmm
    return add_planes(right.t().expand(flat.shape[0], -1, -1), left)


def _factors(total: Tensor, scale: Tensor, shift: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`scale s + shift` as a matrix product: (N, k, H W) and (k, out).

    In half precision the factors are rounded like every operand under autocast. That is harmless because w' s is
    of z's size here; the cancellation z - w' s happens in the weight, in float32.
    """
    left, right = [total.flatten(2).to(dtype)], [scale.to(dtype).unsqueeze(0)]
    if shift is not None:
        left.append(torch.ones_like(left[0]))
        right.append(shift.to(dtype).unsqueeze(0))
    return torch.cat(left, 1), torch.cat(right)


def _add_by_group(y: Tensor, total: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    groups = total.shape[1]
    per_group = scale.reshape(groups, -1, 1, 1)
    if shift is None:
        added = total.unsqueeze(2) * per_group
    else:
        added = torch.addcmul(shift.to(scale.dtype).reshape(groups, -1, 1, 1), total.unsqueeze(2), per_group)
    return y + added.flatten(1, 2).to(y.dtype)


def _without_autocast(y: Tensor) -> AbstractContextManager[object]:
    device = y.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
