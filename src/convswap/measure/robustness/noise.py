"""Noise corruptions: (uint8 images, parameters, draws) -> uint8 images."""

from __future__ import annotations

import torch
from torch import Tensor

from .draws import Draws
from .filters import to_bytes, to_unit

Level = tuple[float, ...]


def gaussian_noise(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """x + N(0, c)."""
    return to_bytes(to_unit(images) + level[0] * _normal(images, draws))


def speckle_noise(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """x + x N(0, c)."""
    x = to_unit(images)
    return to_bytes(x + x * level[0] * _normal(images, draws))


def shot_noise(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """Poisson(c x) / c."""
    return to_bytes(draws.poisson(to_unit(images) * level[0]) / level[0])


def impulse_noise(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """Salt and pepper: each value of each channel is replaced with probability c by 255 or 0, equally likely."""
    channels, height, width = images.shape[1:]
    first, second = (draws.uniform(0, 1, height, width, channels).permute(0, 3, 1, 2) for _ in range(2))
    replaced = first <= level[0]
    salt = (second <= 0.5).to(torch.uint8) * 255
    return torch.where(replaced, salt, images)


def _normal(images: Tensor, draws: Draws) -> Tensor:
    """One number for each value; drawn with the channels last, as in the published generators."""
    channels, height, width = images.shape[1:]
    return draws.normal(height, width, channels).permute(0, 3, 1, 2)
