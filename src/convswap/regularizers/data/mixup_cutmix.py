"""Mixup or CutMix, one of both for each batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import check_number
from ..contract import Regularizer
from ..draws import Draws
from ..registry import register_regularizer
from .cutmix import random_cutmix
from .mixup import mixup


@register_regularizer
@dataclass(frozen=True)
class MixupCutMix(Regularizer):
    """Each batch is mixed by Mixup or by CutMix, with a probability of one half each.

    The defaults are those of torchvision's recipe for ImageNet.

    Args:
        mixup_alpha: of Mixup's Beta distribution.
        cutmix_alpha: of CutMix's Beta distribution.
    """

    name = "mixup_cutmix"
    family = "data"
    place = "mix"
    paper = "torchvision's classification recipe (2021)"
    summary = "mixup or cutmix, one of both for each batch"
    alone = "mixer"
    soft_targets = True

    mixup_alpha: float = 0.2
    cutmix_alpha: float = 1.0

    def check(self) -> None:
        """Both must be above 0."""
        check_number("mixup_alpha", self.mixup_alpha, lambda v: v > 0, "a number above 0")
        check_number("cutmix_alpha", self.cutmix_alpha, lambda v: v > 0, "a number above 0")

    def batch(self, images: Tensor, targets: Tensor, draws: Draws, num_classes: int) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and class weights (N, classes)."""
        if draws.number() < 0.5:
            return mixup(images, targets, draws.beta(self.mixup_alpha), num_classes)
        return random_cutmix(images, targets, self.cutmix_alpha, draws, num_classes)
