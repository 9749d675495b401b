"""Mixup: images and labels are averaged in pairs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import check_number
from ..contract import Regularizer
from ..draws import Draws
from ..registry import register_regularizer
from .mixing import mix_targets, partners


def mixup(images: Tensor, targets: Tensor, share: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """`share` x_i + (1 - `share`) x_j, and the labels likewise; see `partners` for j."""
    partner = partners(len(images), images.device)
    mixed = images.mul(share).add_(images[partner], alpha=1 - share)
    return mixed, mix_targets(targets, partner, share, num_classes)


@register_regularizer
@dataclass(frozen=True)
class Mixup(Regularizer):
    """x = l x_i + (1 - l) x_j and y = l y_i + (1 - l) y_j, with l from Beta(alpha, alpha), one l for each batch.

    Args:
        alpha: of the Beta distribution. The paper has 1 for CIFAR (with weight decay 1e-4) and 0.2 for ImageNet.
    """

    name = "mixup"
    family = "data"
    place = "mix"
    paper = "arXiv:1710.09412 (2017)"
    summary = "images and labels averaged in pairs"
    alone = "mixer"
    soft_targets = True

    alpha: float = 1.0

    def check(self) -> None:
        """Alpha must be above 0."""
        check_number("alpha", self.alpha, lambda v: v > 0, "a number above 0")

    def batch(self, images: Tensor, targets: Tensor, draws: Draws, num_classes: int) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and class weights (N, classes)."""
        return mixup(images, targets, draws.beta(self.alpha), num_classes)
