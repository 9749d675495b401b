"""`convswap::dendritic_conv2d`: the operator, its shapes without data, its gradient and its count of operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ..memory_format import memory_format
from ..shapes import output_size
from . import chunked, native
from .reference import dendritic_conv2d_reference

_FORWARD = "convswap::dendritic_conv2d"
_BACKWARD = "convswap::dendritic_conv2d_backward"


def dendritic_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    output_bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """`out[n, o, p] = sum_c sum_t weight[o, c, t] relu(x[n, c, s p + d t - pad] + bias[o, c(, t)]) + output_bias[o]`.

    Only the arguments are saved for the backward pass. Under autocast the weight is rounded, but input and biases are
    not: their sum is formed in the better of their precisions and rounded once, after the rectifier. The result has
    the precision of the (rounded) weight and the memory format of x. It can be differentiated once.

    The native kernels compute float32 on a processor where they are built. Triton kernels compute CUDA tensors where
    Triton is installed. Plain torch computes anything else, a few output channels at a time; `why_torch` gives the
    reason. ONNX files hold the formula in standard operators, which materialise every pair of channels:
    (N, out, in, H, W).

    Args:
        x: (N, in, H, W).
        weight: (out, in/groups, kH, kW).
        bias: of the dendrites: (out, in/groups), one a pair of channels; or of the weight's shape, one a tap.
        output_bias: (out,) or None.
        stride, dilation: (rows, columns).
        padding: zeros, after the rectifier, at (left, right, top, bottom), as `F.pad` takes them.
        groups: as in `F.conv2d`.

    Raises:
        ValueError: the shapes do not fit together, the kernel is larger than the padded input, or the environment
            variable `CONVSWAP_DENDRITIC_CONV` has a value that is not allowed on this machine.
    """
    _check(x, weight, bias, stride, padding, dilation, groups)
    device = x.device.type
    if device != "meta" and weight.dtype != torch.float64 and torch.is_autocast_enabled(device):
        weight = weight.to(torch.get_autocast_dtype(device))
    if torch.onnx.is_in_onnx_export():
        return dendritic_conv2d_reference(x, weight, bias, output_bias, stride, padding, dilation, groups)
    return _forward(x, weight, bias, output_bias, stride, padding, dilation, groups)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> None:
    if weight.dim() != 4 or 0 in weight.shape:
        raise UsageError(f"weight of shape {tuple(weight.shape)} is not allowed; give (out, in/groups, kH, kW), none 0")
    out, inputs = weight.shape[:2]
    if x.dim() != 4 or x.shape[1] != inputs * groups or out % groups:
        raise UsageError(
            f"x of shape {tuple(x.shape)} does not fit weight of shape {tuple(weight.shape)} with groups={groups}; "
            f"give (N, {inputs * groups}, H, W) and a number of outputs that groups divides"
        )
    if bias.shape not in (weight.shape[:2], weight.shape):
        allowed = f"{tuple(weight.shape[:2])} or {tuple(weight.shape)}"
        raise UsageError(f"bias of shape {tuple(bias.shape)} is not allowed; give {allowed}")
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    if any(after < 1 and not after == before == 0 for before, after in zip(x.shape[2:], size, strict=True)):
        raise UsageError(
            f"x of shape {tuple(x.shape)} is too small for the kernel {tuple(weight.shape[2:])} with "
            f"padding={tuple(padding)} and dilation={tuple(dilation)}"
        )


def why_torch(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    """Why plain torch computes the convolution of these tensors; None where a native kernel does.

    Raises:
        ValueError: the environment variable `CONVSWAP_DENDRITIC_CONV` has a value that is not allowed here.
    """
    if x.is_cuda:
        from . import triton_kernels  # nobody else needs it

        return triton_kernels.why_not(x, weight, bias)
    return native.why_not(x, weight, bias)


def _kernels(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Forward and backward pass of fast kernels for these tensors; None where plain torch computes."""
    if why_torch(x, weight, bias) is not None:
        return None
    if x.is_cuda:
        from . import triton_kernels

        return triton_kernels.dendritic_forward_cuda, triton_kernels.dendritic_backward_cuda
    return native.forward, native.backward


# `torch.library.custom_op` would be shorter, but takes 60 us a call, as long as a small layer.
_library = torch.library.Library("convswap", "FRAGMENT")
_geometry = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"
_library.define(
    f"dendritic_conv2d(Tensor x, Tensor weight, Tensor bias, Tensor? output_bias, {_geometry}) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    f"dendritic_conv2d_backward(Tensor gradient, Tensor x, Tensor weight, Tensor bias, {_geometry}, bool[] needs)"
    " -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_forward = torch.ops.convswap.dendritic_conv2d.default
_backward = torch.ops.convswap.dendritic_conv2d_backward.default


def _compute(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    output_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    arguments = x, weight, bias, output_bias, stride, padding, dilation, groups
    if kernels := _kernels(x, weight, bias):
        return kernels[0](*arguments)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return chunked.forward(*arguments)


def _compute_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    arguments = gradient, x, weight, bias, stride, padding, dilation, groups, needs
    if kernels := _kernels(x, weight, bias):
        found = kernels[1](*arguments)
    else:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            found = chunked.backward(*arguments)
    first, second, third = (x.new_empty(0) if gradient is None else gradient for gradient in found)
    return first, second, third


_library.impl("dendritic_conv2d", _compute, "CompositeExplicitAutograd")
_library.impl("dendritic_conv2d_backward", _compute_backward, "CompositeExplicitAutograd")


@torch.library.register_fake(_FORWARD, lib=_library)
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    output_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    shape = x.shape[0], weight.shape[0], *size
    return torch.empty(shape, dtype=weight.dtype, device=x.device, memory_format=memory_format(x))


@torch.library.register_fake(_BACKWARD, lib=_library)
def _(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=memory_format(x)) if needs[0] else x.new_empty(0)
    dw = torch.empty(weight.shape, dtype=weight.dtype, device=x.device) if needs[1] else x.new_empty(0)
    db = torch.empty(bias.shape, dtype=bias.dtype, device=x.device) if needs[2] else x.new_empty(0)
    return dx, dw, db


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, output_bias, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight, bias)
    ctx.output_dtype = None if output_bias is None else output_bias.dtype


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:4])
    found: list[Tensor | None] = [None, None, None]
    if any(needs[:3]):
        x, weight, bias = ctx.saved_tensors
        found = list(_backward(gradient, x, weight, bias, *ctx.geometry, needs[:3]))
    kept = [value if need else None for value, need in zip(found, needs[:3], strict=True)]
    output = None
    if needs[3]:
        sums = torch.promote_types(gradient.dtype, torch.float32)
        output = gradient.sum((0, 2, 3), dtype=sums).to(ctx.output_dtype)
    return *kept, output, None, None, None, None


torch.library.register_autograd(_FORWARD, _gradients, setup_context=_save, lib=_library)


@cache
def register_flops() -> None:
    """Tell `torch.utils.flop_counter` what the operator costs: the multiply-accumulates of a plain convolution, twice.

    This is called when a dendritic module is made, because importing the counter takes a tenth of a second. The
    additions of biases and the comparisons are not included; `elementwise_operations` counts those.
    """
    from torch.utils.flop_counter import register_flop_formula

    def count(weight: Sequence[int], out: Sequence[int]) -> int:
        return 2 * out[0] * out[2] * out[3] * weight[0] * weight[1] * weight[2] * weight[3]

    @register_flop_formula(torch.ops.convswap.dendritic_conv2d)
    def _(x: Sequence[int], weight: Sequence[int], *rest: Any, out_shape: Sequence[int], **_: Any) -> int:
        return count(weight, out_shape)

    @register_flop_formula(torch.ops.convswap.dendritic_conv2d_backward)
    def _(gradient: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any) -> int:
        # The gradients of input and biases come from one product, the weight's from another.
        dx, dw, db = rest[-1]
        return count(weight, gradient) * ((dx or db) + dw)
