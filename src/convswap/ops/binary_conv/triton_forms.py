"""The binary convolution's Triton kernels: packing, and two forms of the sum. Imported only where triton is.

All read the layouts of `csrc/binary_conv.h` as 32-bit words: the halves of its 64-bit words, low half first.
`tensor_form` expands bits to +-1 in registers and multiplies on int8 tensor cores, `popcount_form` counts differing
bits. Both sum in int32, exactly, in any order; the epilogue rounds after every step as the C++ paths do (launch with
`enable_fp_fusion=False`).
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def _popcount(x):
    """Bits set in uint32, by adding neighbours; compilers turn this sequence into one instruction where there is one."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _minus_signs(words, shift):
    """-1 where the bit is 1, +1 where it is 0, as int32: with both operands negated the products are right."""
    return ((words << shift) >> 31) | 1


@triton.jit
def _inputs(pixel, tap, pixels, height, width, out_height, out_width, stride, padding, dilation, KW: tl.constexpr):
    """Which input pixel a tap reads for each output pixel: its number, and whether it lies inside the image."""
    column = pixel % out_width
    row = (pixel // out_width) % out_height
    image = pixel // (out_width * out_height)
    row = row * stride[0] - padding[0] + (tap // KW) * dilation[0]
    column = column * stride[1] - padding[1] + (tap % KW) * dilation[1]
    inside = (pixel < pixels) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return ((image * height + row) * width + column).to(tl.int64), inside


@triton.jit
def _emit(
    dot,
    pixel,
    output,
    group,
    out,
    scale,
    bias,
    factor,
    threshold,
    flip,
    pixels,
    outputs,
    pitch,
    SIGN: tl.constexpr,
    BIAS: tl.constexpr,
    FACTOR: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Float epilogue (NHWC), or the bits of the sign, one byte for eight outputs; pitch counts elements of a pixel."""
    known = output < outputs
    channel = group * outputs + output
    row = out + pixel.to(tl.int64)[:, None] * pitch
    if SIGN:
        limit = tl.load(threshold + channel, mask=known, other=2147483647)
        turned = tl.load(flip + channel, mask=known, other=0).to(tl.int32)
        bits = (dot >= limit[None, :]).to(tl.int32) ^ turned[None, :]
        place = tl.arange(0, 8)[None, None, :]
        byte = tl.sum(tl.reshape(bits, (BLOCK_P, BLOCK_O // 8, 8)) << place, 2)
        number = tl.program_id(1) * (BLOCK_O // 8) + tl.arange(0, BLOCK_O // 8)
        blocks = (outputs + 7) // 8
        there = (pixel < pixels)[:, None] & (number < blocks)[None, :]
        tl.store(row + group * blocks + number[None, :], byte.to(tl.uint8), mask=there)
    else:
        factors = tl.load(scale + channel, mask=known, other=0)
        y = dot.to(tl.float32) * factors.to(tl.float32)[None, :]
        if FACTOR:
            y = y * tl.load(factor + pixel, mask=pixel < pixels, other=0).to(tl.float32)[:, None]
        if BIAS:
            y = y + tl.load(bias + channel, mask=known, other=0).to(tl.float32)[None, :]
        if RELU:
            y = tl.where(y < 0, 0.0, y)
        there = (pixel < pixels)[:, None] & known[None, :]
        tl.store(row + channel[None, :], y.to(out.dtype.element_ty), mask=there)


@triton.jit
def tensor_form(
    x,
    weight,
    out,
    scale,
    bias,
    factor,
    threshold,
    flip,
    pixels,
    height,
    width,
    out_height,
    out_width,
    channels,
    outputs,
    groups,
    pitch,
    stride_h,
    stride_w,
    pad_top,
    pad_left,
    dilation_h,
    dilation_w,
    KH: tl.constexpr,
    KW: tl.constexpr,
    HALVES: tl.constexpr,
    TAIL: tl.constexpr,
    SIGN: tl.constexpr,
    BIAS: tl.constexpr,
    FACTOR: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    STEP: tl.constexpr,
):
    """Implicit product (pixels x bits) (bits x outputs) of +-1 in int8, STEP * 32 bits at a time."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    output = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    group = tl.program_id(2)
    half, bit = tl.arange(0, STEP), tl.arange(0, 32)
    blocks = (outputs + 7) // 8
    block = output // 8
    lane = (group * blocks + block) * (KH * KW * HALVES * 8) + output % 8 * 2
    acc = tl.zeros((BLOCK_P, BLOCK_O), tl.int32)
    stride, padding, dilation = (stride_h, stride_w), (pad_top, pad_left), (dilation_h, dilation_w)
    for tap in range(KH * KW):
        at, inside = _inputs(pixel, tap, pixels, height, width, out_height, out_width, stride, padding, dilation, KW)
        read = x + at * (groups * HALVES) + group * HALVES
        keep = tl.where(inside, -1, 0)
        for first in range(0, HALVES, STEP):
            number = first + half
            a = tl.load(read[:, None] + number[None, :], mask=inside[:, None], other=0)
            a = _minus_signs(a[:, :, None], 31 - bit[None, None, :]) & keep[:, None, None]
            place = tap * (HALVES * 8) + number // 2 * 16 + number % 2
            b = tl.load(weight + lane[None, :] + place[:, None], mask=(block < blocks)[None, :], other=0)
            b = _minus_signs(b[:, None, :], 31 - bit[None, :, None])
            if TAIL:
                b = tl.where((number[:, None, None] * 32 + bit[None, :, None]) < channels, b, 0)
            a = tl.reshape(a.to(tl.int8), (BLOCK_P, STEP * 32))
            b = tl.reshape(b.to(tl.int8), (STEP * 32, BLOCK_O))
            acc = tl.dot(a, b, acc, out_dtype=tl.int32)
    _emit(
        acc, pixel, output, group, out, scale, bias, factor, threshold, flip, pixels, outputs, pitch,
        SIGN, BIAS, FACTOR, RELU, BLOCK_P, BLOCK_O,
    )  # fmt: skip


@triton.jit
def popcount_form(
    x,
    weight,
    out,
    scale,
    bias,
    factor,
    threshold,
    flip,
    pixels,
    height,
    width,
    out_height,
    out_width,
    channels,
    outputs,
    groups,
    pitch,
    stride_h,
    stride_w,
    pad_top,
    pad_left,
    dilation_h,
    dilation_w,
    KH: tl.constexpr,
    KW: tl.constexpr,
    HALVES: tl.constexpr,
    TAIL: tl.constexpr,
    SIGN: tl.constexpr,
    BIAS: tl.constexpr,
    FACTOR: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    STEP: tl.constexpr,
):
    """`channels * taps inside - 2 * popcount(x ^ w)`; the pad bits are 0 in both operands and never differ."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    output = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    group = tl.program_id(2)
    blocks = (outputs + 7) // 8
    block = output // 8
    lane = (group * blocks + block) * (KH * KW * HALVES * 8) + output % 8 * 2
    differ = tl.zeros((BLOCK_P, BLOCK_O), tl.int32)
    taps = tl.zeros((BLOCK_P,), tl.int32)
    stride, padding, dilation = (stride_h, stride_w), (pad_top, pad_left), (dilation_h, dilation_w)
    for tap in range(KH * KW):
        at, inside = _inputs(pixel, tap, pixels, height, width, out_height, out_width, stride, padding, dilation, KW)
        read = x + at * (groups * HALVES) + group * HALVES
        taps += inside.to(tl.int32)
        keep = tl.where(inside, -1, 0)
        for first in range(0, HALVES, STEP):
            for more in tl.static_range(STEP):
                number = first + more
                a = tl.load(read + number, mask=inside, other=0)
                place = tap * (HALVES * 8) + number // 2 * 16 + number % 2
                b = tl.load(weight + lane + place, mask=block < blocks, other=0)
                unlike = (a[:, None] ^ b[None, :]) & keep[:, None]
                differ += _popcount(unlike.to(tl.uint32, bitcast=True))
    dot = (taps * channels)[:, None] - 2 * differ
    _emit(
        dot, pixel, output, group, out, scale, bias, factor, threshold, flip, pixels, outputs, pitch,
        SIGN, BIAS, FACTOR, RELU, BLOCK_P, BLOCK_O,
    )  # fmt: skip


@triton.jit
def pack_kernel(
    x,
    out,
    threshold,
    flip,
    pixels,
    height,
    width,
    channels,
    halves,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    THRESHOLD: tl.constexpr,
    FLIP: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """`(x >= threshold) ^ flip` of 32 channels of one group in one word; channels counts those of a group."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    number = tl.program_id(1)
    group, half = number // halves, number % halves
    bit = tl.arange(0, 32)
    inner = half * 32 + bit
    channel = group * channels + inner
    known = inner < channels
    column, row = pixel % width, (pixel // width) % height
    image = (pixel // (width * height)).to(tl.int64)
    read = x + image * stride_n + row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w
    there = (pixel < pixels)[:, None] & known[None, :]
    value = tl.load(read[:, None] + channel.to(tl.int64)[None, :] * stride_c, mask=there, other=0)
    if value.dtype != tl.float64:  # exact; the interpreter cannot compare narrow numbers
        value = value.to(tl.float32)
    if THRESHOLD:
        limit = tl.load(threshold + channel, mask=known, other=0)
        if limit.dtype != tl.float64:
            limit = limit.to(tl.float32)
        above = value >= limit[None, :]
    else:
        above = value >= 0
    bits = above.to(tl.int32)
    if FLIP:
        bits = bits ^ tl.load(flip + channel, mask=known, other=0).to(tl.int32)[None, :]
    words = tl.sum(tl.where(there, bits, 0) << bit[None, :], 1)
    tl.store(out + pixel.to(tl.int64) * (tl.num_programs(1)) + number, words, mask=pixel < pixels)
