"""Batch augmentation: several copies of each image in one batch."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import check_whole
from ..contract import Regularizer
from ..registry import register_regularizer


@register_regularizer
@dataclass(frozen=True)
class BatchAugmentation(Regularizer):
    """Each image stands `number` times in its batch, every time cropped, flipped and changed anew.

    The batch grows by this factor. The number of steps and the learning rate stay. BatchNorm sees the larger batch.

    Args:
        number: of copies. The paper has up to 40 for CIFAR and 4 for ImageNet.
    """

    name = "batch_augmentation"
    family = "data"
    place = "order"
    paper = "arXiv:1901.09335 (2019)"
    summary = "several differently augmented copies of each image in a batch, which grows"
    cost = "as many times the images in a step as there are copies"
    alone = "copies"

    number: int = 4

    def check(self) -> None:
        """At least two copies."""
        check_whole("number", self.number, 2)

    def copies(self) -> int:
        """The number of copies."""
        return self.number
