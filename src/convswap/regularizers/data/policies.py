"""What the policies of torchvision share: each uint8 image by itself, with random numbers of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ..contract import Setting
from ..draws import Draws


def each_image(transform: Any, images: Tensor, draws: Draws) -> Tensor:
    """Apply a transform of torchvision to each uint8 image (N, C, H, W).

    Its random numbers come from the CPU's generator. So the images are changed on the CPU: the result is the same on
    every device.
    """
    given = images.contiguous().cpu()
    changed = torch.stack([transform(given[row]) for row in draws.seeded(len(given))])
    return changed.to(images.device)


def check_channels(name: str, setting: Setting) -> None:
    """Refuse images that have neither one nor three channels: the operations are defined for these."""
    if setting.channels not in (1, 3):
        raise UsageError(
            f"regularizer {name!r} changes colours of images with 1 or 3 channels, and these have {setting.channels}; "
            "use cutout or random_erasing"
        )
