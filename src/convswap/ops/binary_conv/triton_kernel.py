"""Binary convolution on a GPU: the same three functions as every other path, computed by Triton kernels.

Importing this file needs no triton; the kernels (`triton_forms.py`) are imported by the first call. Two forms:

* "tensor": bits are expanded to +-1 in registers and multiplied on int8 tensor cores;
* "popcount": 32 products are one exclusive or and one count of bits.

`choose` picks the form. Nothing here has been run on a GPU yet: see docs/gpu-status.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import gpu
from ..shapes import output_size


class Form(NamedTuple):
    """How a convolution is cut up: a program computes `pixels` x `outputs` sums, `step` 32-bit words at a time."""

    name: str  # "tensor" or "popcount"
    pixels: int
    outputs: int
    step: int  # divides the 32-bit words of a group's pixel, an even number
    warps: int
    stages: int


# Of one multiprocessor of an H100 or H200, per cycle, by the vendor's tables: int8 products of the tensor cores, counts
# of 32 bits, and instructions of single threads. `estimate` compares forms by them.
MULTIPROCESSORS = 132
TENSOR_PRODUCTS = 4096
COUNTS = 16
INSTRUCTIONS = 128
# Instructions of the inner loops, read from the machine code that Triton 3.6 and 3.9 make for sm_90.
_EXPAND = 53  # of a thread, for one 32-bit word of either operand
_COUNT = 8  # for one pair of 32-bit words
# Assumed, not measured: cycles of one step that nothing hides, and of a program's beginning and end.
_STEP_CYCLES = {"tensor": 400, "popcount": 300}
_START_CYCLES = 2000

FORMS = (
    Form("tensor", 128, 128, 4, 8, 3),
    Form("tensor", 128, 128, 2, 8, 3),
    Form("tensor", 128, 64, 4, 8, 3),
    Form("tensor", 64, 64, 4, 4, 3),
    Form("tensor", 64, 64, 2, 4, 3),
    Form("tensor", 64, 32, 4, 4, 3),
    Form("tensor", 16, 64, 2, 4, 3),
    Form("popcount", 32, 32, 2, 4, 3),
    Form("popcount", 32, 16, 2, 4, 3),
    Form("popcount", 32, 8, 2, 2, 3),
)


def available() -> bool:
    """Whether the kernels can be used at all; `convswap.ops.gpu.why_missing()` has the reason."""
    return gpu.why_missing() is None


def supports(in_channels: int, out_channels: int, groups: int, kernel: Sequence[int]) -> str | None:
    """Why torch computes this geometry, or None. The kernels are right for any geometry, but slow for narrow groups."""
    if groups > 1 and (in_channels // groups < 16 or out_channels // groups < 8):
        return (
            f"groups of {in_channels // groups} input and {out_channels // groups} output channels leave most of "
            "every 64-bit word empty; groups of at least 16 and 8 are taken"
        )
    if in_channels // groups * math.prod(kernel) >= 1 << 24:
        return "sums of 2^24 and more terms are not exact in float32"
    return None


def estimate(form: Form, pixels: int, channels: int, outputs: int, taps: int, groups: int) -> float:
    """Cycles that a form needs by the numbers above; channels and outputs count those of one group.

    A multiprocessor gets ceil(programs / multiprocessors) programs. It is busy with their instructions, and waits for
    the steps of programs that run one after another (four are assumed to run at once).
    """
    programs = math.ceil(pixels / form.pixels) * math.ceil(outputs / form.outputs) * groups
    rounds = math.ceil(programs / MULTIPROCESSORS)
    words = taps * 2 * math.ceil(channels / 64)
    pairs = form.pixels * form.outputs
    if form.name == "tensor":
        expanding = (form.pixels + form.outputs) * words * _EXPAND / INSTRUCTIONS
        busy = max(pairs * 32 * words / TENSOR_PRODUCTS, expanding)
    else:
        busy = pairs * words * max(1 / COUNTS, _COUNT / INSTRUCTIONS)
    waiting = words / form.step * _STEP_CYCLES[form.name] * math.ceil(rounds / 4)
    return rounds * busy + waiting + _START_CYCLES


def choose(pixels: int, channels: int, outputs: int, taps: int, groups: int) -> Form:
    """The form with the least `estimate`; the first of `FORMS` among equals.

    In words: tensor cores wherever a tile of them is filled, since their peak is 16 times that of counting bits (8
    after the cost of expanding). Counting for narrow outputs, and for so few pixels that its small tiles use more
    multiprocessors. The estimate has not been compared with measurements: `benchmarks/kernels/binary_conv_gpu.py`
    does that.
    """
    halves = 2 * math.ceil(channels / 64)
    fitting = [form for form in FORMS if halves % form.step == 0]
    return min(fitting, key=lambda form: estimate(form, pixels, channels, outputs, taps, groups))


def pack(x: Tensor, threshold: Tensor | None, flip: Tensor | None, groups: int) -> Tensor:
    """`(x >= threshold) ^ flip` (threshold 0 and no flip where None) as bits; a NaN is below every threshold.

    Args:
        x: (N, C, H, W), any floating or integer type, any strides.
        threshold, flip: (C,) or None.
        groups: each group's channels begin in a word of their own.

    Returns:
        int64 (N, H, W, groups * ceil(C / groups / 64)).
    """
    from . import triton_forms

    images, total, height, width = x.shape
    channels = total // groups
    halves = 2 * math.ceil(channels / 64)
    words = torch.empty((images, height, width, groups * halves // 2), dtype=torch.int64, device=x.device)
    pixels, block = images * height * width, 64
    if words.numel():
        with gpu.on_device_of(x):
            triton_forms.pack_kernel[(math.ceil(pixels / block), groups * halves)](
                x, words.view(torch.int32), threshold if threshold is not None else x,
                flip.contiguous().view(torch.uint8) if flip is not None else x,
                pixels, height, width, channels, halves, *x.stride(),
                THRESHOLD=threshold is not None, FLIP=flip is not None, BLOCK_P=block, num_warps=4,
                enable_fp_fusion=False,
            )  # fmt: skip
    return words


def conv2d(
    words: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    map: Tensor | None,
    in_channels: int,
    out_channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    relu: bool,
    form: Form | None = None,
) -> Tensor:
    """`relu?(scale * map? * sum + bias?)`, every step rounded; (N, out, H', W') in channels_last memory.

    Args:
        words: int64 (N, H, W, groups * ceil(in / groups / 64)).
        weight: int64, the canonical layout of `csrc/binary_conv.h`.
        scale, bias: (out,). The result has the dtype of scale; the steps are taken in float32, float64 for float64.
        map: (N, H', W') or None: one more factor for each output pixel.
        in_channels, out_channels: of all groups together.
        stride, dilation: (rows, columns).
        padding: (left, right, top, bottom); padded pixels contribute 0.
        groups: as in `F.conv2d`.
        relu: whether the result is rectified.
        form: of the kernel; if None, `choose` decides.
    """
    size = output_size(words.shape[1:3], weight.shape[2:4], stride, padding, dilation)
    out = torch.empty((words.shape[0], *size, out_channels), dtype=scale.dtype, device=words.device)
    geometry = in_channels, out_channels, stride, padding, dilation, groups
    _launch(
        words, weight, out, size, geometry, form, out_channels, scale=scale, bias=bias, factor=map, relu=relu
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def conv2d_sign(
    words: Tensor,
    weight: Tensor,
    threshold: Tensor,
    flip: Tensor,
    in_channels: int,
    out_channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    form: Form | None = None,
) -> Tensor:
    """`(sum >= threshold) ^ flip` as the packed input of the next layer, int64 (N, H', W', ceil(out / 64)).

    Args:
        words, weight, in_channels, out_channels, stride, padding, dilation, groups, form: as in `conv2d`.
        threshold: int32 (out,).
        flip: bool (out,).
    """
    geometry = in_channels, out_channels, stride, padding, dilation, groups
    if groups > 1 and out_channels // groups % 8:  # bytes of the result would belong to two groups
        ones = torch.ones(out_channels, device=words.device)
        sums = conv2d(words, weight, ones, None, None, *geometry, False, form)
        return pack(sums, threshold.to(torch.float32), flip, 1)
    size = output_size(words.shape[1:3], weight.shape[2:4], stride, padding, dilation)
    count = math.ceil(out_channels / 64)
    make = torch.zeros if out_channels % 64 else torch.empty
    out = make((words.shape[0], *size, count), dtype=torch.int64, device=words.device)
    _launch(
        words, weight, out.view(torch.uint8), size, geometry, form, 8 * count, threshold=threshold, flip=flip
    )  # fmt: skip
    return out


def _launch(
    words: Tensor,
    weight: Tensor,
    out: Tensor,
    size: tuple[int, int],
    geometry: tuple[int, int, Sequence[int], Sequence[int], Sequence[int], int],
    form: Form | None,
    pitch: int,
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    factor: Tensor | None = None,
    relu: bool = False,
    threshold: Tensor | None = None,
    flip: Tensor | None = None,
) -> None:
    from . import triton_forms

    in_channels, out_channels, stride, padding, dilation, groups = geometry
    channels, outputs = in_channels // groups, out_channels // groups
    kh, kw = weight.shape[2:4]
    pixels = words.shape[0] * size[0] * size[1]
    if not out.numel():
        return
    form = form or choose(pixels, channels, outputs, kh * kw, groups)
    kernel: Any = triton_forms.tensor_form if form.name == "tensor" else triton_forms.popcount_form
    grid = math.ceil(pixels / form.pixels), math.ceil(outputs / form.outputs), groups
    spare = words  # stands where a form takes no tensor
    with gpu.on_device_of(words):
        kernel[grid](
            words.contiguous().view(torch.int32), weight.contiguous().view(torch.int32), out,
            *(t.contiguous() if t is not None else spare for t in (scale, bias, factor, threshold)),
            flip.contiguous().view(torch.uint8) if flip is not None else spare,
            pixels, words.shape[1], words.shape[2], *size, channels, outputs, groups, pitch,
            *stride, padding[2], padding[0], *dilation,
            KH=kh, KW=kw, HALVES=2 * weight.shape[4], SIGN=threshold is not None,
            BIAS=bias is not None, FACTOR=factor is not None, RELU=relu,
            BLOCK_P=form.pixels, BLOCK_O=form.outputs, STEP=form.step,
            num_warps=form.warps, num_stages=form.stages, enable_fp_fusion=False,
        )  # fmt: skip
