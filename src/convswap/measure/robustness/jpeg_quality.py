"""JPEG with a real codec (libjpeg through Pillow), as a perturbation by quality.

`changed` of the table of predictions is then the percentage of changed predictions (POCP) of the Min-Nets paper, whose
compression levels 0, 10, ..., 90 are the clean image and the qualities 90, 80, ..., 10.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError, check_choice, check_whole
from .perturbation import Perturbation, check_images

QUALITIES = tuple(range(90, 0, -10))
"""The qualities of the Min-Nets paper."""


def compress(images: Tensor, quality: int, channel_order: str = "rgb") -> Tensor:
    """Each image encoded as JPEG (chroma halved, 4:2:0) and decoded again.

    Args:
        images: uint8, (N, 1 or 3, H, W).
        quality: 1 to 100.
        channel_order: `"rgb"`, or `"minnets_bgr"` to compare with the Min-Nets authors' numbers: red and blue are
            exchanged for the codec, as in their test (their codec assumes BGR and gets RGB).

    Raises:
        UsageError: other images, no such quality or no such channel order.
    """
    check_images(images)
    check_whole("quality", quality)
    if quality > 100:
        raise UsageError(f"quality={quality!r} is not allowed; choose a whole number from 1 to 100")
    check_choice("channel_order", channel_order, ("rgb", "minnets_bgr"))
    if not len(images):
        return images.clone()
    swapped = channel_order == "minnets_bgr"
    given = images.flip(1) if swapped else images
    decoded = torch.stack([_round_trip(image, quality) for image in given.cpu()])
    return decoded.flip(1) if swapped else decoded


def _round_trip(image_CHW: Tensor, quality: int) -> Tensor:
    from PIL import Image

    pixels = image_CHW.permute(1, 2, 0).contiguous().numpy()
    file = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(file)))
    return (decoded[..., None] if decoded.ndim == 2 else decoded).permute(2, 0, 1)


def jpeg(quality: int, channel_order: str = "rgb") -> Perturbation:
    """JPEG of one quality as a perturbation, named `jpeg/<quality>` (`jpeg_minnets_bgr/<quality>`)."""
    compress(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), quality, channel_order)  # refuses wrong arguments now
    name = "jpeg" if channel_order == "rgb" else f"jpeg_{channel_order}"
    return Perturbation(f"{name}/{quality}", lambda images, draws: compress(images, quality, channel_order), quality)


def jpeg_sweep(qualities: Iterable[int] = QUALITIES, channel_order: str = "rgb") -> list[Perturbation]:
    """JPEG at several qualities."""
    return [jpeg(quality, channel_order) for quality in qualities]
