"""Shifts of the image as perturbations, by what fills the border: padding, wrapping round, or real pixels.

Padding with zeros, mirroring, wrapping round and cutting out of a larger image give different numbers, so names say
which is meant.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError, check_choice, check_whole
from .draws import Draws
from .filters import fold
from .perturbation import Perturbation

PADDINGS = ("reflect", "zeros", "edge", "circular")
_BATCH = 8  # images that share a pair of crops, as in the published script's batches


def shift(down: int, right: int, padding: str = "reflect") -> Perturbation:
    """The window moved over the image by some pixels, so what it shows moves the other way.

    Args:
        down: rows the window moves down.
        right: columns it moves right.
        padding: what lies beyond the border: `"reflect"` (mirrored, the edge once), `"zeros"` (black), `"edge"`
            (repeated) or `"circular"` (the other side, as `torch.roll`).

    Raises:
        UsageError: no such padding; when applied, a shift as large as the image.
    """
    check_choice("padding", padding, PADDINGS)
    check_whole("down", down, None)
    check_whole("right", right, None)
    name = f"shift_{padding}/{down},{right}"
    size = max(abs(down), abs(right))
    return Perturbation(name, lambda images, draws: moved(images, down, right, padding), size)


def moved(images: Tensor, down: int, right: int, padding: str) -> Tensor:
    """See `shift`."""
    height, width = images.shape[-2:]
    if abs(down) >= height or abs(right) >= width:
        raise UsageError(f"a shift by {down}, {right} is not allowed on images of {height}x{width}")
    rows, columns = torch.arange(height) + down, torch.arange(width) + right
    if padding == "circular":
        return images[..., rows % height, :][..., columns % width]
    border = "mirror" if padding == "reflect" else "edge"
    found = images[..., fold(rows, height, border), :][..., fold(columns, width, border)]
    if padding == "zeros":
        found = found * ((rows >= 0) & (rows < height))[:, None] * ((columns >= 0) & (columns < width))
    return found


def all_shifts(reach: int, padding: str = "reflect") -> list[Perturbation]:
    """Every shift by up to `reach` pixels in both directions, (2 reach + 1)² of them, row by row."""
    check_whole("reach", reach)
    steps = range(-reach, reach + 1)
    return [shift(down, right, padding) for down in steps for right in steps]


def shift_line(reach: int, padding: str = "reflect", direction: str = "horizontal") -> list[Perturbation]:
    """Shifts by -reach ... reach along one direction: `"horizontal"`, `"vertical"` or `"diagonal"`."""
    check_whole("reach", reach)
    check_choice("direction", direction, ("horizontal", "vertical", "diagonal"))
    down, right = direction != "horizontal", direction != "vertical"
    return [shift(k * down, k * right, padding) for k in range(-reach, reach + 1)]


def crop_pairs(crop: int, epochs: int = 5) -> tuple[list[Perturbation], list[Perturbation]]:
    """Zhang's protocol: two random crops of the side `crop` per epoch; eight images in a row share their offsets.

    On ImageNet the images are 256 pixels and the crops 224 (offsets 0 ... 31: the last possible one is left out).

    Returns:
        The first crops and the second ones, for `pair_consistency(table.columns(...), table.columns(...))`.
    """
    check_whole("crop", crop)
    check_whole("epochs", epochs)

    def one(which: str, epoch: int) -> Perturbation:
        return Perturbation(f"crop_{which}/{crop},{epoch}", lambda x, draws: _random_crop(x, crop, draws), crop)

    return [one("first", e) for e in range(epochs)], [one("second", e) for e in range(epochs)]


def _random_crop(images: Tensor, crop: int, draws: Draws) -> Tensor:
    height, width = images.shape[-2:]
    if crop >= min(height, width):
        raise UsageError(f"crop={crop} is not allowed on images of {height}x{width}; give a smaller crop")
    where = torch.stack([draws.shared(0, height - crop, _BATCH), draws.shared(0, width - crop, _BATCH)], 1)
    return torch.stack([x[:, r : r + crop, c : c + crop] for x, (r, c) in zip(images, where.tolist(), strict=True)])


def crop_diagonal(crop: int, count: int = 33) -> list[Perturbation]:
    """Zhang's diagonal: crops of the side `crop` at (0, 0), (1, 1), ... (count - 1, count - 1).

    On ImageNet the images are 256 pixels and the 33 crops 224. For `scores.stability`, with `logits_of` all of them.

    Raises:
        UsageError: a number below 1; when applied, images too small for the last crop.
    """
    check_whole("crop", crop)
    check_whole("count", count)

    def one(step: int) -> Perturbation:
        def apply(images: Tensor, draws: Draws) -> Tensor:
            height, width = images.shape[-2:]
            if step + crop > min(height, width):
                raise UsageError(f"crop={crop} at {step}, {step} is not allowed on images of {height}x{width}")
            return images[..., step : step + crop, step : step + crop]

        return Perturbation(f"crop_diagonal/{crop},{step}", apply, step)

    return [one(step) for step in range(count)]


def enlarged_shifts(size: int, reach: int = 8, divide: int = 1, direction: str = "horizontal") -> list[Perturbation]:
    """WCNN's shifts: real pixels all around, and steps of 1 / divide pixel.

    The image's shorter side is resized to divide (size + reach), and its middle is cut out. Windows of divide size are
    cut out of that at offsets 0, 1, ..., divide reach and resized to `size`. Both resizings are bilinear, antialiased.

    Args:
        size: of the images the model sees.
        reach: the largest shift in pixels.
        divide: steps per pixel.
        direction: `"horizontal"`, `"vertical"` or `"diagonal"`.

    Returns:
        divide reach + 1 perturbations, for `flip_rate` and `shift_divergence`.
    """
    check_choice("direction", direction, ("horizontal", "vertical", "diagonal"))
    for name, value in (("size", size), ("reach", reach), ("divide", divide)):
        check_whole(name, value)

    def one(step: int) -> Perturbation:
        def apply(images: Tensor, draws: Draws) -> Tensor:
            return _enlarged_window(images, size, reach, divide, step, direction)

        return Perturbation(f"shift_{direction}_enlarged/{step / divide:g}", apply, step / divide)

    return [one(step) for step in range(divide * reach + 1)]


def _enlarged_window(images: Tensor, size: int, reach: int, divide: int, step: int, direction: str) -> Tensor:
    height, width = images.shape[-2:]
    side = divide * (size + reach)
    shorter = min(height, width)
    x = _resize(images, side * height // shorter, side * width // shorter)
    top, left = (round((n - side) / 2) for n in x.shape[-2:])
    top += step if direction != "horizontal" else 0
    left += step if direction != "vertical" else 0
    return _resize(x[..., top : top + divide * size, left : left + divide * size], size, size)


def _resize(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    x = F.interpolate(images.float(), size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    return x.round().clamp(0, 255).to(torch.uint8)
