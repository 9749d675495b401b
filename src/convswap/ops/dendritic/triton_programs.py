"""The dendritic convolution's Triton kernels. Imported only where triton is; `triton_kernels.py` launches them.

Every one forms `relu(x + b)` in registers, in float32 or better, rounds it to the weight's precision and sums in
float32 or better, in a fixed order: no atomic additions, so the same input gives the same bits. Nothing of the size
(batch, out, in, H, W) exists. Padded pixels are read as -infinity, which the rectifier makes 0.

Gradients are computed phase by phase (`tiling.Phase`): a phase holds input pixels that lie a stride apart and are read
by the same taps. Along an axis its taps are `tap0 + k * tap_step`, and tap k carries the input pixel i of the phase to
the output pixel `i - shift0 - k * shift_step`.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def _activate(x, bias, ROUNDED: tl.constexpr, SUMS: tl.constexpr):
    """`relu(x + bias)` in SUMS, rounded to ROUNDED; a NaN stays one."""
    h = tl.maximum(x.to(SUMS) + bias.to(SUMS), 0.0, propagate_nan=tl.PropagateNan.ALL)
    return h.to(ROUNDED).to(SUMS)


@triton.jit
def forward_program(
    x,
    weight,
    bias,
    output_bias,
    out,
    pixels,
    channels,
    height,
    width,
    outputs,
    out_height,
    out_width,
    out_n,
    out_c,
    out_h,
    out_w,
    stride_h,
    stride_w,
    pad_top,
    pad_left,
    dilation_h,
    dilation_w,
    KH: tl.constexpr,
    KW: tl.constexpr,
    TAPWISE: tl.constexpr,
    OUTPUT_BIAS: tl.constexpr,
    ROUNDED: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Outputs of one group x output pixels: neighbouring threads take neighbouring pixels.

    weight is (groups, in, taps, out), bias (groups, in, [taps,] out)."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    output = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    group = tl.program_id(2)
    known = output < outputs
    line = pixel // out_width
    column = pixel - line * out_width
    image = (line // out_height).to(tl.int64)
    row = line % out_height
    top, left = row * stride_h - pad_top, column * stride_w - pad_left
    total = tl.zeros((BLOCK_O, BLOCK_P), SUMS)
    for c in range(channels):
        plane = x + ((image * tl.num_programs(2) + group) * channels + c) * height * width
        pair = (group * channels + c) * outputs + output
        if not TAPWISE:
            b = tl.load(bias + pair, mask=known, other=0)
        for tap in range(KH * KW):
            at_row, at_column = top + tap // KW * dilation_h, left + tap % KW * dilation_w
            inside = (pixel < pixels) & (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
            seen = tl.load(plane + at_row * width + at_column, mask=inside, other=float("-inf"))
            place = ((group * channels + c) * (KH * KW) + tap) * outputs + output
            w = tl.load(weight + place, mask=known, other=0)
            if TAPWISE:
                b = tl.load(bias + place, mask=known, other=0)
            h = _activate(seen[None, :], b[:, None], ROUNDED, SUMS)
            total += h * w.to(SUMS)[:, None]
    channel = group * outputs + output
    if OUTPUT_BIAS:
        total += tl.load(output_bias + channel, mask=known, other=0).to(SUMS)[:, None]
    where = out + image * out_n + row.to(tl.int64) * out_h + column.to(tl.int64) * out_w
    there = (pixel < pixels)[None, :] & known[:, None]
    tl.store(where[None, :] + channel.to(tl.int64)[:, None] * out_c, total.to(out.dtype.element_ty), mask=there)


@triton.jit
def input_gradient_program(
    gradient,
    x,
    weight,
    bias,
    dx,
    pixels,
    rows,
    columns,
    channels,
    height,
    width,
    outputs,
    out_height,
    out_width,
    dx_n,
    dx_c,
    dx_h,
    dx_w,
    row_start,
    column_start,
    row_step,
    column_step,
    row_shift,
    column_shift,
    row_shift_step,
    column_shift_step,
    row_tap,
    column_tap,
    row_tap_step,
    column_tap_step,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    KW: tl.constexpr,
    KERNEL: tl.constexpr,
    TAPWISE: tl.constexpr,
    ROUNDED: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """`dx[c] = sum_o [x + b > 0] sum_t w[o, c, t] g[o]`: inputs of one group x pixels of a phase.

    x and gradient are contiguous NCHW, weight is (groups, out, taps, in), bias (groups, out, [taps,] in).
    """
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inner = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    group = tl.program_id(2)
    known, real = inner < channels, pixel < pixels
    line = pixel // columns
    j = pixel - line * columns
    image = (line // rows).to(tl.int64)
    i = line % rows
    row, column = row_start + i * row_step, column_start + j * column_step
    channel = (group * channels + inner).to(tl.int64)
    there = real[None, :] & known[:, None]
    spot = image * tl.num_programs(2) * channels * height * width + row * width + column
    seen = tl.load(x + spot[None, :] + channel[:, None] * (height * width), mask=there, other=0)
    total = tl.zeros((BLOCK_C, BLOCK_P), SUMS)
    for o in range(outputs):
        plane = gradient + ((image * tl.num_programs(2) + group) * outputs + o) * out_height * out_width
        if not TAPWISE:
            b = tl.load(bias + (group * outputs + o) * channels + inner, mask=known, other=0)
        slope = tl.zeros((BLOCK_C, BLOCK_P), SUMS)
        for tap in range(TAPS_H * TAPS_W):
            u, v = tap // TAPS_W, tap % TAPS_W
            to_row, to_column = i - row_shift - u * row_shift_step, j - column_shift - v * column_shift_step
            inside = real & (to_row >= 0) & (to_row < out_height) & (to_column >= 0) & (to_column < out_width)
            g = tl.load(plane + to_row * out_width + to_column, mask=inside, other=0).to(SUMS)
            flat = (row_tap + u * row_tap_step) * KW + column_tap + v * column_tap_step
            place = ((group * outputs + o) * KERNEL + flat) * channels + inner
            w = tl.load(weight + place, mask=known, other=0)
            product = g[None, :] * w.to(SUMS)[:, None]
            if TAPWISE:
                b = tl.load(bias + place, mask=known, other=0)
                h = _activate(seen, b[:, None], ROUNDED, SUMS)
                slope += tl.where(h <= 0, 0.0, product)
            else:
                slope += product
        if TAPWISE:
            total += slope
        else:
            h = _activate(seen, b[:, None], ROUNDED, SUMS)
            total += tl.where(h <= 0, 0.0, slope)
    where = dx + image * dx_n + row.to(tl.int64) * dx_h + column.to(tl.int64) * dx_w
    tl.store(where[None, :] + channel[:, None] * dx_c, total.to(dx.dtype.element_ty), mask=there)


@triton.jit
def weight_gradient_program(
    gradient,
    x,
    bias,
    sums,
    open_sums,
    pixels,
    part,
    rows,
    columns,
    channels,
    height,
    width,
    outputs,
    out_height,
    out_width,
    row_start,
    column_start,
    row_step,
    column_step,
    row_shift,
    column_shift,
    row_shift_step,
    column_shift_step,
    row_tap,
    column_tap,
    row_tap_step,
    column_tap_step,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    KW: tl.constexpr,
    KERNEL: tl.constexpr,
    TAPWISE: tl.constexpr,
    WEIGHT: tl.constexpr,
    OPEN: tl.constexpr,
    ROUNDED: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums over some pixels of a phase: `relu(x + b) g` for the weights, `[x + b > 0] g` for the biases.

    x and gradient are contiguous NHWC, bias (groups, out, [taps,] in); sums and open_sums are
    (parts, groups, out, taps, in). A program takes `part` pixels one after another, for some taps, outputs and inputs.
    """
    split = tl.program_id(0)
    group = tl.program_id(2)
    blocks_c = tl.cdiv(channels, BLOCK_C)
    blocks_o = tl.cdiv(outputs, BLOCK_O)
    number = tl.program_id(1)
    inner = number % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    output = number // blocks_c % blocks_o * BLOCK_O + tl.arange(0, BLOCK_O)
    tap = number // (blocks_c * blocks_o) * BLOCK_T + tl.arange(0, BLOCK_T)
    known, served, used = inner < channels, output < outputs, tap < TAPS_H * TAPS_W
    u, v = tap // TAPS_W, tap % TAPS_W
    flat = (row_tap + u * row_tap_step) * KW + column_tap + v * column_tap_step
    pair = (group * outputs + output)[None, :, None] * KERNEL + flat[:, None, None]
    place = pair * channels + inner[None, None, :]  # (taps, outputs, inputs)
    there = used[:, None, None] & served[None, :, None] & known[None, None, :]
    if TAPWISE:
        b = tl.load(bias + place, mask=there, other=0)
    else:
        between = (group * outputs + output)[:, None] * channels + inner[None, :]
        b = tl.load(bias + between, mask=served[:, None] & known[None, :], other=0)[None, :, :]
    total = tl.zeros((BLOCK_T, BLOCK_O, BLOCK_C), SUMS)
    opened = tl.zeros((BLOCK_T, BLOCK_O, BLOCK_C), SUMS)
    groups = tl.num_programs(2)
    for pixel in range(split * part, tl.minimum(split * part + part, pixels)):
        line = pixel // columns
        j = pixel - line * columns
        image = line // rows
        i = line - image * rows
        spot = (image.to(tl.int64) * height + row_start + i * row_step) * width + column_start + j * column_step
        seen = tl.load(x + (spot * groups + group) * channels + inner, mask=known, other=0)
        to_row, to_column = i - row_shift - u * row_shift_step, j - column_shift - v * column_shift_step
        inside = used & (to_row >= 0) & (to_row < out_height) & (to_column >= 0) & (to_column < out_width)
        at = ((image.to(tl.int64) * out_height + to_row) * out_width + to_column) * groups + group
        g = tl.load(
            gradient + at[:, None] * outputs + output[None, :], mask=inside[:, None] & served[None, :], other=0
        ).to(SUMS)[:, :, None]
        h = _activate(seen[None, None, :], b, ROUNDED, SUMS)
        if WEIGHT:
            total += g * h
        if OPEN:
            opened += g * tl.where(h <= 0, 0.0, 1.0).to(SUMS)
    base = (split.to(tl.int64) * groups) * outputs * KERNEL * channels
    if WEIGHT:
        tl.store(sums + base + place, total, mask=there)
    if OPEN:
        tl.store(open_sums + base + place, opened, mask=there)
