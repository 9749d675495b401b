"""The image operations the corruptions are made of, over whole batches (N, C, H, W).

Resampling and smoothing along one axis is a small matrix (`*_matrix`, output x input). `separable` applies it to rows
and columns. Borders are folded into the matrix, and a batch costs two matrix products.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)


def to_unit(images: Tensor) -> Tensor:
    """uint8 to float64 in 0..1."""
    return images.double() / 255


def to_bytes(x: Tensor) -> Tensor:
    """Clip to 0..1 and cut off (not round) to bytes, as the corruption benchmarks do."""
    return (x.clamp(0, 1) * 255).to(torch.uint8)


def grey(x_NCHW: Tensor) -> Tensor:
    """Luma of RGB images, (N, 1, H, W); grey images as they are."""
    if x_NCHW.shape[1] == 1:
        return x_NCHW
    return (x_NCHW * torch.tensor(_LUMA, dtype=x_NCHW.dtype)[:, None, None]).sum(1, keepdim=True)


def fold(position: Tensor, length: int, border: str) -> Tensor:
    """Indices outside 0 ... length - 1 brought inside: `"edge"`, `"mirror"` (edge once), `"reflect"` (edge twice)."""
    if border == "edge" or length == 1:
        return position.clamp(0, length - 1)
    once = border == "mirror"
    period = 2 * length - 2 if once else 2 * length
    position = position.remainder(period)
    return torch.minimum(position, (period if once else period - 1) - position)


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply one matrix along the height and one along the width: rows @ x @ columns.T for each channel."""
    x = torch.matmul(x.transpose(-1, -2).contiguous(), rows.to(x.dtype).T)
    return torch.matmul(x.transpose(-1, -2).contiguous(), columns.to(x.dtype).T)


def gaussian_matrix(length: int, sigma: float, border: str = "edge", truncate: float = 4.0) -> Tensor:
    """Smoothing by a Gaussian cut off at `truncate` deviations, (length, length)."""
    if sigma <= 0:
        return torch.eye(length, dtype=torch.float64)
    radius = int(truncate * sigma + 0.5)
    offset = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    weight /= weight.sum()
    source = fold(torch.arange(length)[:, None] + offset, length, border)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add_(1, source, weight.expand(length, -1))


def gaussian(x: Tensor, sigma: float, border: str = "edge", truncate: float = 4.0) -> Tensor:
    """Gaussian smoothing of the last two axes."""
    height, width = x.shape[-2:]
    rows, columns = (gaussian_matrix(n, sigma, border, truncate) for n in (height, width))
    return separable(x, rows, columns)


def zoom_matrix(length: int, factor: float) -> Tensor:
    """Enlarge the middle of a line by a factor (linear, ends on ends) and keep the middle `length` of the result."""
    kept = math.ceil(length / factor)
    start = (length - kept) // 2
    size = round(kept * factor)
    trim = (size - length) // 2
    position = (torch.arange(length, dtype=torch.float64) + trim) * ((kept - 1) / max(size - 1, 1))
    low = position.floor().clamp(max=kept - 1).long()
    share = position - low
    matrix = torch.zeros(length, length, dtype=torch.float64)
    matrix.scatter_add_(1, (start + low)[:, None], (1 - share)[:, None])
    return matrix.scatter_add_(1, (start + (low + 1).clamp(max=kept - 1))[:, None], share[:, None])


def zoom(x: Tensor, factor: float) -> Tensor:
    """Enlarge the middle of images by a factor of at least 1, keeping their size."""
    return separable(x, zoom_matrix(x.shape[-2], factor), zoom_matrix(x.shape[-1], factor))


def box_matrix(length: int, size: int) -> Tensor:
    """Pillow's BOX resampling of a line to `size`, in its fixed point of 22 bits, (size, length) of whole numbers."""
    scale = length / size
    support = 0.5 * max(scale, 1.0)
    matrix = torch.zeros(size, length, dtype=torch.float64)
    for row in range(size):
        centre = (row + 0.5) * scale
        first, last = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), length)
        position = (torch.arange(first, last, dtype=torch.float64) - centre + 0.5) / max(scale, 1.0)
        weight = ((position > -0.5) & (position <= 0.5)).double()
        matrix[row, first:last] = torch.floor(weight / weight.sum() * 2**22 + 0.5)
    return matrix


def box_resize(images: Tensor, height: int, width: int) -> Tensor:
    """`PIL.Image.resize((width, height), BOX)` for a batch of uint8 images, to the bit."""

    def along(x: Tensor, size: int) -> Tensor:
        summed = torch.matmul(x.contiguous(), box_matrix(x.shape[-1], size).T)
        return ((summed + 2**21) / 2**22).floor().clamp(0, 255)

    x = along(images.double(), width)
    return along(x.transpose(-1, -2), height).transpose(-1, -2).to(torch.uint8)


def take_pixels(x_NCHW: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x[n, :, rows[n, h, w], columns[n, h, w]]; rows and columns (N, H, W) or broadcast to it."""
    n, channels, _, width = x_NCHW.shape
    flat = (rows * width + columns).reshape(n, 1, -1)
    shape = torch.broadcast_shapes(rows.shape, columns.shape)
    return x_NCHW.reshape(n, channels, -1).gather(2, flat.expand(-1, channels, -1)).reshape(n, channels, *shape[1:])


def sample_bilinear(x_NCHW: Tensor, rows: Tensor, columns: Tensor, border: str) -> Tensor:
    """Bilinear values at real positions (N, H, W), in pixels from the first centre."""
    height, width = x_NCHW.shape[-2:]
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None].to(x_NCHW.dtype), (columns - left)[:, None].to(x_NCHW.dtype)
    r0, r1 = (fold(top.long() + step, height, border) for step in (0, 1))
    c0, c1 = (fold(left.long() + step, width, border) for step in (0, 1))
    upper = take_pixels(x_NCHW, r0, c0) * (1 - right) + take_pixels(x_NCHW, r0, c1) * right
    lower = take_pixels(x_NCHW, r1, c0) * (1 - right) + take_pixels(x_NCHW, r1, c1) * right
    return upper * (1 - down) + lower * down


def rgb_to_hsv(x_N3HW: Tensor) -> Tensor:
    """Hue, saturation and value, each in 0..1, (N, 3, H, W)."""
    value, largest = x_N3HW.max(1)
    span = value - x_N3HW.amin(1)
    safe = torch.where(span == 0, 1.0, span)
    red, green, blue = x_N3HW.unbind(1)
    hue = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe], 1)
    hue = hue.gather(1, largest[:, None])[:, 0] / 6 % 1
    hue = torch.where(span == 0, 0.0, hue)
    saturation = torch.where(span == 0, 0.0, span / torch.where(value == 0, 1.0, value))
    return torch.stack([hue, saturation, value], 1)


def hsv_to_rgb(x_N3HW: Tensor) -> Tensor:
    """The inverse of `rgb_to_hsv`."""
    hue, saturation, value = x_N3HW.unbind(1)
    sector = torch.floor(hue * 6)
    share = hue * 6 - sector
    p, q = value * (1 - saturation), value * (1 - share * saturation)
    t = value * (1 - (1 - share) * saturation)
    table = torch.stack([value, q, p, p, t, value], 1)
    which = sector.long().remainder(6)
    # The six sectors walk through (value, q, p, p, t, value), green two and blue four steps behind red.
    return torch.stack([table.gather(1, ((which + back) % 6)[:, None])[:, 0] for back in (0, 4, 2)], 1)
