"""TrivialAugment: one operation of any magnitude."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..contract import Regularizer, Setting
from ..draws import Draws
from ..registry import register_regularizer
from .policies import check_channels, each_image


@register_regularizer
@dataclass(frozen=True)
class TrivialAugment(Regularizer):
    """For each image one of 14 operations, at a magnitude that is uniform over a wide range.

    The operations are torchvision's (`torchvision.transforms.v2.TrivialAugmentWide`, 31 steps). Pixels that come in
    from outside are black.
    """

    name = "trivial_augment"
    family = "data"
    place = "pixels"
    paper = "arXiv:2103.10158 (2021)"
    summary = "one operation for each image, at a magnitude drawn uniformly"
    cost = "one pass of Python for each image, on the CPU"
    alone = "policy"

    def check_setting(self, setting: Setting) -> None:
        """One or three channels."""
        check_channels(self.name, setting)

    def pixels(self, images: Tensor, draws: Draws) -> Tensor:
        """(N, C, H, W) uint8 -> the same shape."""
        from torchvision.transforms import v2

        return each_image(v2.TrivialAugmentWide(), images, draws)
