"""RandAugment: operations drawn uniformly, all of one magnitude."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import check_whole
from ..contract import Regularizer, Setting
from ..draws import Draws
from ..registry import register_regularizer
from .policies import check_channels, each_image


@register_regularizer
@dataclass(frozen=True)
class RandAugment(Regularizer):
    """For each image `operations` of 14 operations, drawn with replacement, each at `magnitude` of its range.

    The operations are torchvision's (`torchvision.transforms.v2.RandAugment`), with 31 steps in each range: the
    magnitude is m / 30 of the whole. Pixels that come in from outside are black.

    Args:
        operations: how many for each image. The paper has 3 for CIFAR-10 (WRN-28-10) and 2 for ImageNet (ResNet-50).
        magnitude: m, 0 to 30. The paper has 5 and 9, of its own scale.
    """

    name = "rand_augment"
    family = "data"
    place = "pixels"
    paper = "arXiv:1909.13719 (2019)"
    summary = "operations drawn uniformly, all of one magnitude"
    cost = "one pass of Python for each image, on the CPU"
    alone = "policy"

    operations: int = 2
    magnitude: int = 9

    def check(self) -> None:
        """At least one operation, and a magnitude in its range."""
        check_whole("operations", self.operations)
        check_whole("magnitude", self.magnitude, 0, 30)

    def check_setting(self, setting: Setting) -> None:
        """One or three channels."""
        check_channels(self.name, setting)

    def pixels(self, images: Tensor, draws: Draws) -> Tensor:
        """(N, C, H, W) uint8 -> the same shape."""
        from torchvision.transforms import v2

        return each_image(v2.RandAugment(self.operations, self.magnitude), images, draws)
