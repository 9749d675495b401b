"""Weather corruptions: (uint8 images, parameters, draws) -> uint8 images."""

from __future__ import annotations

import torch
from torch import Tensor

from .blur import streak
from .draws import Draws
from .filters import grey, hsv_to_rgb, rgb_to_hsv, to_bytes, to_unit, zoom

Level = tuple[float, ...]

# Mean of the colours of frost and their deviation within a picture and between pictures, in 0..1.
_FROST_COLOUR, _FROST_WITHIN, _FROST_BETWEEN = (0.56, 0.63, 0.67), 0.14, 0.12


def fog(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """A cloud of strength c over the image, which keeps its largest value: (x + c cloud) max / (max + c)."""
    strength, decay = level
    x = to_unit(images)
    height, width = x.shape[-2:]
    size = 32
    while size < max(height, width):
        size *= 2
    largest = x.amax((1, 2, 3), keepdim=True)
    cloud = plasma(size, decay, draws)[:, None, :height, :width]
    return to_bytes((x + strength * cloud) * largest / (largest + strength))


def plasma(size: int, decay: float, draws: Draws) -> Tensor:
    """Diamond-square clouds in 0..1, (N, size, size), wrapped around; size is a power of two.

    Every level halves the spacing of the known points: first the middles of the squares, then the middles of their
    sides become the mean of their four neighbours plus U(-w², w²), where w starts at 100 and is divided by `decay`.
    """
    cloud = torch.zeros(len(draws), size, size, dtype=torch.float64)
    step, wobble = size, 100.0

    def mean_of(total: Tensor) -> Tensor:
        return total / 4 + wobble * draws.uniform(-wobble, wobble, *total.shape[1:])

    while step >= 2:
        half = step // 2
        corner = cloud[:, ::step, ::step]
        pair = corner + corner.roll(-1, 1)
        cloud[:, half::step, half::step] = mean_of(pair + pair.roll(-1, 2))
        middle = cloud[:, half::step, half::step]
        cloud[:, ::step, half::step] = mean_of(middle + middle.roll(1, 1) + corner + corner.roll(-1, 2))
        cloud[:, half::step, ::step] = mean_of(middle + middle.roll(1, 2) + corner + corner.roll(-1, 1))
        step, wobble = half, wobble / decay
    cloud -= cloud.amin((1, 2), keepdim=True)
    return cloud / cloud.amax((1, 2), keepdim=True)


def snow(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """Flakes in motion, twice (once upside down), over a bleached image.

    The flakes are N(loc, scale), enlarged by a factor, zero below a threshold and blurred along a steep direction:
    (loc, scale, factor, threshold, radius, deviation, share of the image that is not bleached).
    """
    loc, scale, factor, threshold, radius, sigma, kept = level
    x = to_unit(images)
    flakes = (draws.normal(*x.shape[-2:]) * scale + loc)[:, None]
    flakes = zoom(flakes, factor)
    flakes = torch.where(flakes < threshold, 0.0, flakes)
    angle = draws.uniform(-135, -45)
    flakes = streak(to_bytes(flakes).double(), angle, radius, sigma).floor() / 255
    x = kept * x + (1 - kept) * torch.maximum(x, grey(x) * 1.5 + 0.5)
    return to_bytes(x + flakes + flakes.flip(2, 3))


def frost(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """a x + b frost, the frost a drawn texture: (a, b).

    The published generator cuts the frost out of five photographs. They are not shipped; the texture has the colour,
    the contrast and roughly the spectrum of those photographs (a cloud with fine crystals).
    """
    x = to_unit(images)
    height, width = x.shape[-2:]
    size = 32
    while size < max(height, width):
        size *= 2
    cloud = plasma(size, 1.5, draws)[:, None, :height, :width]
    cloud = cloud - cloud.mean((2, 3), keepdim=True)
    cloud = cloud / cloud.std((2, 3), keepdim=True)
    shade = draws.normal(1, 1, 1)
    texture = torch.tensor(_FROST_COLOUR, dtype=torch.float64)[:, None, None]
    texture = texture + _FROST_WITHIN * cloud + _FROST_BETWEEN * shade
    if x.shape[1] == 1:
        texture = grey(texture)
    return to_bytes(level[0] * x + level[1] * texture.clamp(0, 1))


def brightness(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """HSV value + c."""
    x = to_unit(images)
    if x.shape[1] == 1:
        return to_bytes(x + level[0])
    hue, saturation, value = rgb_to_hsv(x).unbind(1)
    return to_bytes(hsv_to_rgb(torch.stack([hue, saturation, (value + level[0]).clamp(0, 1)], 1)))
