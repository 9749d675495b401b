"""The binary convolution's Triton kernels: packing, and two forms of the sum. Imported only where triton is.

All read the layouts of `csrc/binary_conv.h` through pointers to 32-bit words: the halves of its words, low half first.
`tensor_form` expands bits to +-1 in registers and multiplies on int8 tensor cores. `popcount_form` counts differing
bits. Both sum in int32, exactly, in any order. The epilogue rounds after every step as the C++ paths do (launch with
`enable_fp_fusion=False`).
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def _popcount(x):
    """Bits set in uint64, by adding neighbours; the compiler knows the sequence and counts with `popc` instead."""
    x = x - ((x >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((x * 0x0101010101010101) >> 56).to(tl.int32)


@triton.jit
def _expand(words, KEPT: tl.constexpr, keep):
    """The bits of int32 (rows, STEP) as int8 (rows, STEP * 32): -1 for 1 and +1 for 0, in an order of its own.

    Four bits at a time become four bytes of one number, t * 254 + 1 in each. One thread holds all bits of a word, side
    by side. Signs are turned and the order is not that of the channels; both are the same for both operands, so they
    cancel.
    With KEPT, bytes become 0 where `keep` (like words) is 0 and stay where it is -1.
    """
    b0, b1, b2, b3 = _four(words, 0), _four(words, 1), _four(words, 2), _four(words, 3)
    b4, b5, b6, b7 = _four(words, 4), _four(words, 5), _four(words, 6), _four(words, 7)
    if KEPT:
        b0, b1, b2, b3 = b0 & keep, b1 & keep, b2 & keep, b3 & keep
        b4, b5, b6, b7 = b4 & keep, b5 & keep, b6 & keep, b7 & keep
    fours = tl.join(tl.join(tl.join(b0, b4), tl.join(b2, b6)), tl.join(tl.join(b1, b5), tl.join(b3, b7)))
    low, second, third, high = fours, fours >> 8, fours >> 16, fours >> 24
    even = tl.join(low.to(tl.int8), third.to(tl.int8))
    odd = tl.join(second.to(tl.int8), high.to(tl.int8))
    return tl.reshape(tl.join(even, odd), (words.shape[0], words.shape[1] * 32))


@triton.jit
def _four(words, first: tl.constexpr):
    """Bits first, first + 8, first + 16 and first + 24 as bytes of -1 (bit 1) and +1 (bit 0)."""
    return ((words >> first) & 0x01010101) * 254 + 0x01010101


@triton.jit
def _corner(pixel, out_height, out_width, stride_h, stride_w, pad_top, pad_left):
    """Image, row and column that the first tap of each output pixel reads."""
    line = pixel // out_width
    image = line // out_height
    return image, (line - image * out_height) * stride_h - pad_top, (pixel - line * out_width) * stride_w - pad_left


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
        if factors.dtype != tl.float64:
            factors = factors.to(tl.float32)
        y = dot.to(factors.dtype) * factors[None, :]
        if FACTOR:
            y = y * tl.load(factor + pixel, mask=pixel < pixels, other=0).to(factors.dtype)[:, None]
        if BIAS:
            y = y + tl.load(bias + channel, mask=known, other=0).to(factors.dtype)[None, :]
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
    half = tl.arange(0, STEP)
    blocks = (outputs + 7) // 8
    block = output // 8
    lane = (group * blocks + block) * (KH * KW * HALVES * 8) + output % 8 * 2
    acc = tl.zeros((BLOCK_P, BLOCK_O), tl.int32)
    taps = tl.zeros((BLOCK_P,), tl.int32)
    image, top, left = _corner(pixel, out_height, out_width, stride_h, stride_w, pad_top, pad_left)
    line = image.to(tl.int64) * height
    for tap in range(KH * KW):
        row, column = top + tap // KW * dilation_h, left + tap % KW * dilation_w
        inside = (pixel < pixels) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        read = x + ((line + row) * width + column) * (groups * HALVES) + group * HALVES
        taps += inside.to(tl.int32)
        keep = tl.where(inside, -1, 0)
        for first in range(0, HALVES, STEP):
            number = first + half[None, :]
            a = tl.load(read[:, None] + number, mask=inside[:, None], other=0)
            place = tap * (HALVES * 8) + number // 2 * 16 + number % 2
            b = tl.load(weight + lane[:, None] + place, mask=(block < blocks)[:, None], other=0)
            rows, columns = _expand(a, True, keep[:, None]), _expand(b, False, b)
            acc = tl.dot(rows, tl.trans(columns), acc, out_dtype=tl.int32)
    # The pad bits are 0 in both operands, so each added 1 for every tap inside.
    dot = acc - (taps * (HALVES * 32 - channels))[:, None]
    _emit(
        dot, pixel, output, group, out, scale, bias, factor, threshold, flip, pixels, outputs, pitch,
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
    lane = (group * blocks + block) * (KH * KW * HALVES * 4) + output % 8
    x, weight = x.to(tl.pointer_type(tl.int64)), weight.to(tl.pointer_type(tl.int64))
    differ = tl.zeros((BLOCK_O, BLOCK_P), tl.int32)
    taps = tl.zeros((BLOCK_P,), tl.int32)
    image, top, left = _corner(pixel, out_height, out_width, stride_h, stride_w, pad_top, pad_left)
    line = image.to(tl.int64) * height
    for tap in range(KH * KW):
        row, column = top + tap // KW * dilation_h, left + tap % KW * dilation_w
        inside = (pixel < pixels) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        read = x + ((line + row) * width + column) * (groups * (HALVES // 2)) + group * (HALVES // 2)
        taps += inside.to(tl.int32)
        keep = tl.where(inside, -1, 0).to(tl.int64)
        for word in range(HALVES // 2):
            a = tl.load(read + word, mask=inside, other=0)
            b = tl.load(weight + lane + (tap * (HALVES // 2) + word) * 8, mask=block < blocks, other=0)
            unlike = (a[None, :] ^ b[:, None]) & keep[None, :]
            differ += _popcount(unlike.to(tl.uint64, bitcast=True))
    dot = tl.trans((taps * channels)[None, :] - 2 * differ)
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
        above = value >= tl.load(threshold + channel, mask=known, other=0).to(value.dtype)[None, :]
    else:
        above = value >= 0
    bits = above.to(tl.int32)
    if FLIP:
        bits = bits ^ tl.load(flip + channel, mask=known, other=0).to(tl.int32)[None, :]
    words = tl.sum(tl.where(there, bits, 0) << bit[None, :], 1)
    tl.store(out + pixel.to(tl.int64) * (tl.num_programs(1)) + number, words, mask=pixel < pixels)
