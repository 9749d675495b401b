"""The dendritic convolution on a GPU: `chunked.forward` and `chunked.backward` in fused Triton kernels.

Importing this file needs no triton; the kernels (`triton_programs.py`) are imported by the first call. Additions happen
in a fixed order, so a call gives the same bits every time. Nothing here has been run on a GPU yet: see
docs/gpu-status.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import gpu
from ..memory_format import memory_format
from ..shapes import output_size
from .tiling import Phase, phases

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PROGRAMS = 1056  # least number that computes a gradient of weights: eight for each multiprocessor of an H100
_LEAST_PART = 64  # least number of pixels that one of them sums
_MOST_GROUPS = 65535  # of a launch's third axis
# Pixels and channels of a program, and its warps. By the machine code of Triton 3.6 and 3.9 for sm_90 they give few
# instructions beside the additions, comparisons and products, and enough registers. Not measured.
SHAPES = {"forward": (128, 32, 4), "input": (128, 16, 4)}


def why_not(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    """Why the kernels cannot be used for these tensors, or None; then `chunked` computes."""
    if reason := gpu.why_missing():
        return reason
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor.dtype not in _DTYPES:
            return f"{name} is of {tensor.dtype}"
    if x.shape[1] // max(1, weight.shape[1]) > _MOST_GROUPS:
        return f"more than {_MOST_GROUPS} groups"
    return None


def dendritic_forward_cuda(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    output_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """(N, out, H', W') in the weight's dtype and the memory format of x; arguments as `chunked.forward`'s."""
    from . import triton_programs

    (out_channels, channels), kernel = weight.shape[:2], weight.shape[2:]
    size = output_size(x.shape[2:], kernel, stride, padding, dilation)
    shape = x.shape[0], out_channels, *size
    out = torch.empty(shape, dtype=weight.dtype, device=x.device, memory_format=memory_format(x))
    if not out.numel():
        return out
    outputs, pixels = out_channels // groups, x.shape[0] * size[0] * size[1]
    block_p, most, warps = SHAPES["forward"]
    block_o = _block(outputs, most)
    grid = math.ceil(pixels / block_p), math.ceil(outputs / block_o), groups
    with gpu.on_device_of(x):
        triton_programs.forward_program[grid](
            x.contiguous(), _ordered(weight, groups, (0, 2, 3, 1)), _ordered(bias, groups, (0, 2, 3, 1)),
            output_bias if output_bias is not None else weight, out,
            pixels, channels, *x.shape[2:], outputs, *size, *out.stride(),
            *stride, padding[2], padding[0], *dilation,
            KH=kernel[0], KW=kernel[1], TAPWISE=bias.dim() == 4, OUTPUT_BIAS=output_bias is not None,
            **_precision(x, weight, bias), BLOCK_P=block_p, BLOCK_O=block_o, num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def dendritic_backward_cuda(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of (x, weight, bias) where `needs` asks for them, each in its tensor's dtype.

    One kernel for each phase of the stride computes the input's gradient. One more kernel serves weights and biases:
    each of its programs sums some pixels, and torch adds the parts, in order. The biases' gradient is the sum over taps
    of the weights times `sum [x + b > 0] g`.
    """
    found = phases(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    call = _Call(gradient, x, weight, bias, groups, size)
    dx = _input_gradient(call, found) if needs[0] else None
    dw, db = _weight_gradients(call, found, needs[1], needs[2]) if needs[1] or needs[2] else (None, None)
    return dx, dw, db


class _Call(NamedTuple):
    """The tensors of a backward pass; size is (H', W')."""

    gradient: Tensor
    x: Tensor
    weight: Tensor
    bias: Tensor
    groups: int
    size: tuple[int, int]

    @property
    def options(self) -> dict[str, Any]:
        kernel = self.weight.shape[2:]
        found = {"KW": kernel[1], "KERNEL": kernel[0] * kernel[1], "TAPWISE": self.bias.dim() == 4}
        return {**found, **_precision(self.x, self.weight, self.bias)}


class _Axis(NamedTuple):
    """Taps of a phase along one axis: tap `first + k * step` reads phase pixel i for output `i - shift - k * more`."""

    taps: int
    first: int
    step: int
    shift: int
    more: int

    @classmethod
    def of(cls, pairs: set[tuple[int, int]]) -> _Axis:
        """From the (tap, shift) of all taps, both of which are arithmetic progressions."""
        ordered = sorted(pairs)
        (first, shift), (second, next_shift) = ordered[0], ordered[min(1, len(ordered) - 1)]
        return cls(len(ordered), first, second - first, shift, next_shift - shift)


def _axes(phase: Phase, kernel_width: int) -> tuple[_Axis, _Axis]:
    """Rows and columns of a phase."""
    rows, columns = (
        _Axis.of({
            (divmod(tap.flat, kernel_width)[axis], tap.source[axis].start - tap.target[axis].start)
            for tap in phase.taps
        })
        for axis in (0, 1)
    )  # fmt: skip
    return rows, columns


def _place(phase: Phase, axes: tuple[_Axis, _Axis]) -> tuple[int, ...]:
    """A phase as the kernels' arguments from `row_start` on."""
    rows, columns = axes
    return (
        *phase.start, *phase.step, rows.shift, columns.shift, rows.more, columns.more,
        rows.first, columns.first, rows.step, columns.step,
    )  # fmt: skip


def _input_gradient(call: _Call, found: Sequence[Phase]) -> Tensor:
    from . import triton_programs

    x, (out_channels, channels) = call.x, call.weight.shape[:2]
    dx = torch.zeros_like(x, memory_format=memory_format(x))  # pixels that no tap reads keep the 0
    if not x.numel():
        return dx
    outputs = out_channels // call.groups
    gradient, whole = call.gradient.contiguous(), x.contiguous()
    weight, bias = (_ordered(t, call.groups, (0, 1, 3, 2)) for t in (call.weight, call.bias))
    block_p, most, warps = SHAPES["input"]
    block_c = _block(channels, most)
    for phase in found:
        axes = _axes(phase, call.weight.shape[3])
        pixels = x.shape[0] * phase.size[0] * phase.size[1]
        grid = math.ceil(pixels / block_p), math.ceil(channels / block_c), call.groups
        with gpu.on_device_of(x):
            triton_programs.input_gradient_program[grid](
                gradient, whole, weight, bias, dx,
                pixels, *phase.size, channels, *x.shape[2:], outputs, *call.size, *dx.stride(), *_place(phase, axes),
                TAPS_H=axes[0].taps, TAPS_W=axes[1].taps, **call.options,
                BLOCK_P=block_p, BLOCK_C=block_c, num_warps=warps, enable_fp_fusion=True,
            )  # fmt: skip
    return dx


def _weight_gradients(
    call: _Call, found: Sequence[Phase], of_weight: bool, of_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    from . import triton_programs

    x, w, groups, options = call.x, call.weight, call.groups, call.options
    channels, outputs, kernel = w.shape[1], w.shape[0] // groups, options["KERNEL"]
    sums = _sums(x, w, call.bias)
    most_o, most_c = (16, 32) if sums == torch.float32 else (8, 16)  # what registers hold, for 16 taps
    block_o, block_c = _block(outputs, most_o), _block(channels, most_c)
    parts = _parts(call, found, math.ceil(outputs / block_o) * math.ceil(channels / block_c) * groups)
    shape = parts, groups, outputs, kernel, channels
    total, opened = (
        torch.zeros(shape if asked else (1,), dtype=sums, device=x.device) for asked in (of_weight, of_bias)
    )
    gradient, whole = (t.contiguous(memory_format=torch.channels_last) for t in (call.gradient, x))
    for phase in found:
        axes = _axes(phase, w.shape[3])
        pixels, taps = x.shape[0] * phase.size[0] * phase.size[1], len(phase.taps)
        block_t = _block(taps, 16)
        blocks = math.ceil(outputs / block_o) * math.ceil(channels / block_c) * math.ceil(taps / block_t)
        if not pixels:
            continue
        with gpu.on_device_of(x):
            triton_programs.weight_gradient_program[(parts, blocks, groups)](
                gradient, whole, _ordered(call.bias, groups, (0, 1, 3, 2)), total, opened,
                pixels, math.ceil(pixels / parts), *phase.size, channels, *x.shape[2:], outputs, *call.size,
                *_place(phase, axes),
                TAPS_H=axes[0].taps, TAPS_W=axes[1].taps, WEIGHT=of_weight, OPEN=of_bias, **options,
                BLOCK_T=block_t, BLOCK_O=block_o, BLOCK_C=block_c, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    dw = total.sum(0).flatten(0, 1).transpose(1, 2).reshape(w.shape).to(w.dtype) if of_weight else None
    if not of_bias:
        return dw, None
    product = opened.sum(0).flatten(0, 1).transpose(1, 2).reshape(w.shape) * w
    db = product if call.bias.dim() == 4 else product.sum((2, 3))
    return dw, db.to(call.bias.dtype)


def _parts(call: _Call, found: Sequence[Phase], blocks: int) -> int:
    """The number of parts the pixels are cut into: enough programs, parts not too short, sums not above the maps."""
    pixels = max((call.x.shape[0] * phase.size[0] * phase.size[1] for phase in found), default=0)
    most = (call.x.numel() + call.gradient.numel()) // max(1, 2 * call.weight.numel())
    return max(1, min(math.ceil(_PROGRAMS / max(1, blocks)), pixels // _LEAST_PART, most))


def _ordered(tensor: Tensor, groups: int, order: Sequence[int]) -> Tensor:
    """(out, in[, kH, kW]) as contiguous (groups, out/groups, in, taps) with those four axes in another order."""
    return tensor.reshape(groups, tensor.shape[0] // groups, tensor.shape[1], -1).permute(*order).contiguous()


def _block(count: int, most: int) -> int:
    """The power of two that holds count, at most `most`."""
    return min(most, 1 << max(0, count - 1).bit_length())


def _sums(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _precision(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Any]:
    """The type activations are rounded to, and the type of all sums, as Triton's types."""
    import triton.language as tl

    names = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
    return {"ROUNDED": names.get(weight.dtype, tl.float64), "SUMS": names.get(_sums(x, weight, bias), tl.float64)}
