"""Spatter: water or mud on the lens. The edge and distance maps follow OpenCV's integer arithmetic, for a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .draws import Draws
from .filters import fold, gaussian, grey, to_bytes, to_unit

Level = tuple[float, ...]

_WATER, _MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)
_LOW, _HIGH = 50, 150  # of the edge detector
_FAR = 20.0  # distances are cut off here
_STEPS = {1: 1.0, 2: 1.4, 5: 2.1969}  # length of a step by its squared offset, in the distance transform


def spatter(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """Drops where smoothed N(loc, scale) exceeds a threshold: (loc, scale, deviation, threshold, strength, mud).

    Water brightens (added, most at a drop's rim); mud covers (blended, and `strength` is the deviation of a second
    smoothing). An image on which no drop fell stays as it is.
    """
    loc, scale, sigma, threshold, strength, mud = level
    x = to_unit(images)
    liquid = gaussian(draws.normal(*x.shape[-2:]) * scale + loc, sigma)
    liquid = torch.where(liquid < threshold, 0.0, liquid)
    if mud:
        cover = gaussian((liquid > threshold).double(), strength)
        cover = torch.where(cover < 0.8, 0.0, cover)[:, None]
        return to_bytes(x * (1 - cover) + _colour(_MUD, x) * cover)
    drops = (liquid * 255).floor().remainder(256)  # the published generator's bytes overflow too
    light = drops * _rim(drops)
    largest = light.amax((1, 2), keepdim=True)
    light = light / torch.where(largest == 0, 1.0, largest) * strength
    return to_bytes(x + light[:, None] * _colour(_WATER, x))


def _colour(colour: tuple[float, ...], x: Tensor) -> Tensor:
    values = torch.tensor(colour, dtype=x.dtype)[None, :, None, None]
    return grey(values) if x.shape[1] == 1 else values


def _rim(drops: Tensor) -> Tensor:
    """How bright each pixel shines, 0 ... 255, from its distance to the nearest edge of a drop; all (N, H, W)."""
    near = distance(edges(drops)).clamp(max=_FAR)
    near = (_mean3(near) + 1e-6).floor()
    near = equalize(near)
    relief = torch.tensor([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]], dtype=torch.float64)
    shaded = F.conv2d(_mirror(near)[:, None], relief[None, None])[:, 0].clamp(0, 255)
    return _mean3(shaded).round()


def edges(x: Tensor) -> Tensor:
    """Canny's edges of 8-bit images (thresholds 50 and 150 of |dx| + |dy|), bool (N, H, W)."""
    padded = F.pad(x[:, None], (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=x.dtype)
    dx, dy = F.conv2d(padded, torch.stack([sobel, sobel.T])[:, None]).unbind(1)
    size = dx.abs() + dy.abs()
    around = F.pad(size, (1, 1, 1, 1))
    height, width = x.shape[-2:]

    def at(down: int, right: int) -> Tensor:
        return around[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    flat = dy.abs() * 2**15 < dx.abs() * 13573  # within 22.5 degrees of the horizontal
    steep = dy.abs() * 2**15 > dx.abs() * (13573 + 2**16)
    across = torch.where(
        (dx < 0) != (dy < 0), (size > at(-1, 1)) & (size > at(1, -1)), (size > at(-1, -1)) & (size > at(1, 1))
    )
    ridge = torch.where(steep, (size > at(-1, 0)) & (size >= at(1, 0)), across)
    ridge = torch.where(flat, (size > at(0, -1)) & (size >= at(0, 1)), ridge)
    weak = ridge & (size > _LOW)
    strong = weak & (size > _HIGH)
    while True:  # weak edges that touch strong ones become strong
        grown = weak & (F.max_pool2d(strong[:, None].float(), 3, 1, 1)[:, 0] > 0)
        if torch.equal(grown, strong):
            return strong
        strong = grown


def distance(targets: Tensor) -> Tensor:
    """Length of the shortest path to a target by steps of 1, 1.4 and 2.1969 (knight's), at most `_FAR`; (N, H, W)."""
    found = torch.where(targets, 0.0, _FAR).double()
    height, width = found.shape[-2:]
    offsets = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if i * i + j * j in _STEPS]
    while True:
        around = F.pad(found, (2, 2, 2, 2), value=_FAR)
        shorter = found
        for i, j in offsets:
            step = around[:, 2 + i : 2 + i + height, 2 + j : 2 + j + width] + _STEPS[i * i + j * j]
            shorter = torch.minimum(shorter, step)
        if torch.equal(shorter, found):
            return found
        found = shorter


def equalize(x: Tensor) -> Tensor:
    """Histogram equalisation of 8-bit images; an image of one value stays as it is; (N, H, W) of whole numbers."""
    flat = x.reshape(len(x), -1).long()
    counts = torch.zeros(len(x), 256, dtype=torch.float64)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    first = (counts > 0).double().argmax(1, keepdim=True)
    lowest = counts.gather(1, first)
    rest = flat.shape[1] - lowest
    table = ((counts.cumsum(1) - lowest) * (255 / torch.where(rest == 0, 1.0, rest))).round().clamp(0, 255)
    table = torch.where(rest == 0, first.double(), table)
    return table.gather(1, flat).reshape(x.shape)


def _mirror(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    rows, columns = (fold(torch.arange(-1, n + 1), n, "mirror") for n in (height, width))
    return x[:, rows][:, :, columns]


def _mean3(x: Tensor) -> Tensor:
    return F.avg_pool2d(_mirror(x)[:, None], 3, 1)[:, 0]
