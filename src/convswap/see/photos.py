"""Real images to look through: test images of data, or crops of the two photographs that come with scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError

if TYPE_CHECKING:
    from ..data import Data


def sample_images(data: Data, count: int) -> Tensor:
    """Test images from all over the set, (at most count, C, H, W) in 0 .. 1, not normalised.

    Raises:
        ValueError: a count below 1.
    """
    from ..data import ArrayImages

    if count < 1:
        raise UsageError(f"count={count!r} is not allowed; give a whole number of at least 1")
    chosen = torch.linspace(0, len(data.test) - 1, min(count, len(data.test))).round().long().tolist()
    if isinstance(data.test, ArrayImages):
        return data.test.images[chosen].float() / 255
    return torch.stack([data.test[i][0] for i in chosen]).float() / 255


def photographs(count: int, size: tuple[int, int], *, channels: int = 3, seed: int = 0) -> Tensor:
    """Random square crops of a temple and a flower, in turns, scaled to a size: (count, channels, H, W) in 0 .. 1.

    Args:
        count: how many.
        size: height and width.
        channels: 3, or another number: their mean, repeated.
        seed: of the crops.

    Raises:
        ValueError: a count or size below 1.
    """
    if count < 1 or min(size) < 1 or channels < 1:
        raise UsageError(f"count={count!r}, size={size!r}, channels={channels!r}: give whole numbers of at least 1")
    from sklearn.datasets import load_sample_images

    sources = [torch.tensor(image).permute(2, 0, 1).float() / 255 for image in load_sample_images().images]
    generator = torch.Generator().manual_seed(seed)
    crops = []
    for index in range(count):
        source = sources[index % len(sources)]
        height, width = source.shape[1:]
        side = int(torch.randint(height // 2, height + 1, (), generator=generator))
        top = int(torch.randint(0, height - side + 1, (), generator=generator))
        left = int(torch.randint(0, width - side + 1, (), generator=generator))
        crop = source[None, :, top : top + side, left : left + side]
        crops.append(F.interpolate(crop, size, mode="bilinear", antialias=True, align_corners=False))
    images = torch.cat(crops).clamp(0, 1)
    return images if channels == 3 else images.mean(1, keepdim=True).expand(-1, channels, -1, -1).contiguous()
