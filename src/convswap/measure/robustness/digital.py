"""Digital corruptions: (uint8 images, parameters, draws) -> uint8 images."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import UsageError
from .draws import Draws
from .filters import box_resize, gaussian, hsv_to_rgb, rgb_to_hsv, sample_bilinear, to_bytes, to_unit
from .jpeg_quality import compress

Level = tuple[float, ...]


def contrast(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """Each channel drawn to its mean: (x - mean) c + mean."""
    x = to_unit(images)
    mean = x.mean((2, 3), keepdim=True)
    return to_bytes((x - mean) * level[0] + mean)


def pixelate(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """Shrunk to the share c of the side and enlarged again, both by Pillow's BOX."""
    height, width = images.shape[-2:]
    small = box_resize(images, int(height * level[0]), int(width * level[0]))
    return box_resize(small, height, width)


def jpeg_compression(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """JPEG of quality c."""
    return compress(images, int(level[0]))


def saturate(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """HSV saturation * a + b: (a, b).

    Raises:
        UsageError: the images are grey.
    """
    if images.shape[1] == 1:
        raise UsageError("corruption 'saturate' is not allowed on grey images; they have no saturation")
    hue, saturation, value = rgb_to_hsv(to_unit(images)).unbind(1)
    return to_bytes(hsv_to_rgb(torch.stack([hue, (saturation * level[0] + level[1]).clamp(0, 1), value], 1)))


def elastic_transform(images: Tensor, level: Level, draws: Draws) -> Tensor:
    """A random affine map, then random smooth displacements: (alpha, sigma, affine), in pixels.

    Three points around the centre move by U(-affine, affine) each; then each pixel is taken from a place that lies
    alpha times a Gaussian-smoothed U(-1, 1) away. Bilinear; borders are mirrored.
    """
    alpha, sigma, affine = level
    x = images.float() / 255
    height, width = x.shape[-2:]
    rows, columns = _affine_positions(height, width, draws.uniform(-affine, affine, 3, 2))
    x = sample_bilinear(x, rows, columns, "mirror")
    right, down = (_smooth(draws.uniform(-1, 1, height, width), sigma) * alpha for _ in range(2))
    grid_rows, grid_columns = torch.arange(height)[:, None] + down, torch.arange(width) + right
    return to_bytes(sample_bilinear(x, grid_rows, grid_columns, "reflect"))


def _smooth(field: Tensor, sigma: float) -> Tensor:
    return gaussian(field, sigma, "reflect", 3.0)


def _affine_positions(height: int, width: int, moved: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from when three points move by `moved` (N, 3, 2): rows and columns (N, H, W)."""
    half, side = (height // 2, width // 2), min(height, width) // 3
    points = torch.tensor(
        [[half[0] + side, half[1] + side], [half[0] + side, half[1] - side], [half[0] - side, half[1] - side]],
        dtype=torch.float64,
    )
    ones = torch.ones(3, 1, dtype=torch.float64)
    after = torch.cat([points + moved, ones.expand(len(moved), 3, 1)], 2)
    back = torch.linalg.solve(after, points.expand(len(moved), 3, 2))  # (x, y, 1) after -> (x, y) before
    y, x = torch.arange(height, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)
    columns, rows = (
        back[:, 0, k, None, None] * x + back[:, 1, k, None, None] * y + back[:, 2, k, None, None] for k in (0, 1)
    )
    return rows, columns
