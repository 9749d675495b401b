"""Cutout: a black square at a random place of each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UsageError, check_whole
from ..contract import Regularizer, Setting
from ..draws import Draws
from ..registry import register_regularizer


@register_regularizer
@dataclass(frozen=True)
class Cutout(Regularizer):
    """Set a square of each image to zero, which after normalisation is the mean colour of the data.

    The centre (y, x) is uniform over all pixels. The square is rows y - L//2 ... y + L//2 - 1 and columns likewise,
    clipped at the border. So the visible hole is smaller near the border, as in the authors' code. (Variants that keep
    the square inside the image remove more.)

    Args:
        length: side L of the square in pixels. The paper has 16 for CIFAR-10, 8 for CIFAR-100 and 20 for SVHN.
    """

    name = "cutout"
    family = "data"
    place = "batch"
    paper = "arXiv:1708.04552 (2017)"
    summary = "a square of mean colour at a random place of each image"

    length: int = 16

    def check(self) -> None:
        """At least one pixel on each side of the centre."""
        check_whole("length", self.length, 2)

    def check_setting(self, setting: Setting) -> None:
        """The square must be smaller than the image, or whole images would be black."""
        smaller = min(setting.image_size)
        if self.length >= smaller:
            raise UsageError(
                f"regularizer 'cutout' with length={self.length} hides whole images of "
                f"{setting.image_size[0]}x{setting.image_size[1]}; give a length below {smaller}, e.g. "
                f"cutout:{max(2, smaller // 2)}"
            )

    def batch(self, images: Tensor, targets: Tensor, draws: Draws, num_classes: int) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> the same shape, dtype and memory format."""
        count, _, height, width = images.shape
        y_N, x_N = draws.whole(count, height).to(images.device), draws.whole(count, width).to(images.device)
        inside_NHW = self._covers(y_N, height)[:, :, None] & self._covers(x_N, width)[:, None, :]
        return images.clone().masked_fill_(inside_NHW[:, None], 0), targets

    def _covers(self, centre_N: Tensor, length: int) -> Tensor:
        position = torch.arange(length, device=centre_N.device)
        half = self.length // 2
        return (position >= centre_N[:, None] - half) & (position < centre_N[:, None] + half)
