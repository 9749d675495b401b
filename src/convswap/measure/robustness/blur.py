"""Blur corruptions: (uint8 images, parameters, draws) -> uint8 images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .draws import Draws
from .filters import fold, gaussian, take_pixels, to_bytes, to_unit, zoom

Level = tuple[float, ...]


def gaussian_blur(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """Smoothing by a Gaussian of deviation c."""
    return to_bytes(gaussian(to_unit(images), level[0]))


def defocus_blur(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """Convolution with a disk (radius, deviation of the Gaussian that smooths the disk); borders are mirrored."""
    kernel = disk(*level)
    reach = len(kernel) // 2
    x = to_unit(images)
    height, width = x.shape[-2:]
    rows, columns = (fold(torch.arange(-reach, n + reach), n, "mirror") for n in (height, width))
    padded = x[..., rows, :][..., columns]
    total = torch.zeros_like(x)
    for i, j in kernel.nonzero().tolist():
        total += kernel[i, j] * padded[..., i : i + height, j : j + width]
    return to_bytes(total)


def disk(radius: float, smoothing: float) -> Tensor:
    """The kernel of `defocus_blur`, without the zeros around it; sums to one."""
    reach, half = (8, 1) if radius <= 8 else (int(radius), 2)
    axis = torch.arange(-reach, reach + 1)
    inside = (axis[:, None] ** 2 + axis**2 <= radius**2).float()
    weight = torch.exp(-0.5 * (torch.arange(-half, half + 1).double() / smoothing) ** 2)
    weight = (weight / weight.sum()).float()
    kernel = F.pad((inside / inside.sum())[None, None], (half,) * 4, mode="reflect")
    kernel = F.conv2d(F.conv2d(kernel, weight[None, None, None]), weight[None, None, :, None])[0, 0]
    used = int((kernel.amax(0) > 0).nonzero().sub(reach).abs().max())
    return kernel[reach - used : reach + used + 1, reach - used : reach + used + 1].double()


def glass_blur(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """Smooth, take each pixel from a random place up to d away, smooth again: (deviation, d, times).

    The pixels are visited from the lower right corner, and a taken pixel is not put back (the published generator
    means to swap two pixels but copies one).
    """
    sigma, reach, times = level[0], int(level[1]), int(level[2])
    x = to_bytes(gaussian(to_unit(images), sigma))
    height, width = x.shape[-2:]
    tall, wide = max(height - 2 * reach, 0), max(width - 2 * reach, 0)
    # Drawn in the order of the visits, hence the flips.
    offsets = draws.integers(-reach, reach, times, tall, wide, 2).flip(2, 3)
    for moves in offsets.unbind(1):
        x = _take_neighbours(x, moves[..., 1], moves[..., 0], reach)
    return to_bytes(gaussian(to_unit(x), sigma))


def _take_neighbours(x: Tensor, down: Tensor, right: Tensor, reach: int) -> Tensor:
    n, _, height, width = x.shape
    rows, columns = torch.arange(height).expand(n, -1)[:, :, None], torch.arange(width).expand(n, -1)[:, None]
    start = reach + 1  # visited are start ... size - reach, which for reach 1 ends at the last pixel
    first, last_row, last_column = start, height - reach + 1, width - reach + 1
    rows, columns = rows.expand(n, height, width).clone(), columns.expand(n, height, width).clone()
    rows[:, first:last_row, first:last_column] += down
    columns[:, first:last_row, first:last_column] += right
    source = (rows * width + columns).reshape(n, -1)
    if reach > 1:  # a source may have been visited before and then holds what it was given
        source = _follow(source, range(first, last_row), range(first, last_column), width)
    return take_pixels(x, (source // width).view(n, height, width), (source % width).view(n, height, width))


def _follow(source: Tensor, rows: range, columns: range, width: int) -> Tensor:
    """Replace sources by what lies there at the time of the visit, pixel after pixel from the last."""
    source = source.T.contiguous()
    held = torch.arange(len(source))[:, None].expand_as(source).clone()
    for row in reversed(rows):
        for column in reversed(columns):
            place = row * width + column
            held[place] = held.gather(0, source[place : place + 1])[0]
    return held.T


def motion_blur(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """One-sided Gaussian streak (radius, deviation) in a random direction within 45 degrees of the horizontal."""
    angle = draws.uniform(-45, 45)
    return streak(images.double(), angle, *level).to(torch.uint8)


def streak(x: Tensor, angle: Tensor, radius: float, sigma: float) -> Tensor:
    """Mean of 2 radius + 1 copies, each moved one step on along the angle (degrees, one per image) and weighing less.

    Copy i weighs exp(-i² / (2 sigma²)); steps are rounded to pixels and edges are repeated, as ImageMagick does.
    """
    steps = torch.arange(2 * int(radius) + 1)
    weights = torch.exp(-(steps.double() ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    height, width = x.shape[-2:]
    turned = angle.double() * (math.pi / 180)
    total = torch.zeros_like(x)
    for step, weight in zip(steps.tolist(), weights.tolist(), strict=True):
        if weight < 1e-7:  # less than a ten-thousandth of a grey level
            break
        down, right = ((step * part - 0.5).ceil().long()[:, None] for part in (turned.sin(), turned.cos()))
        rows, columns = torch.arange(height) + down, torch.arange(width) + right
        total += weight * take_pixels(x, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None])
    return total


def zoom_blur(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """Mean of the image and of its middle enlarged by 1, 1 + step, 1 + 2 step, ...: (number of factors, step)."""
    x = images.float() / 255
    total = x.clone()
    step = (1 + level[1]) - 1  # as numpy.arange(1, ..., step) has it: a factor of just above 1.25 makes another size
    for index in range(int(level[0])):
        total += zoom(x, 1 + index * step)
    return to_bytes(total / (int(level[0]) + 1))
