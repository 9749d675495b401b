"""CutMix: a box of each image comes from another image, and the label by the box's area."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ...errors import check_number
from ..contract import Regularizer
from ..draws import Draws
from ..registry import register_regularizer
from .mixing import mix_targets, partners


def box_of(share: float, centre: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box (top, left, bottom, right) of area (1 - `share`) H W around a centre (y, x), clipped to the image."""
    sides = [int(length * math.sqrt(1 - share)) // 2 for length in size]
    top, left = (max(0, middle - half) for middle, half in zip(centre, sides, strict=True))
    bottom, right = (min(n, m + half) for n, m, half in zip(size, centre, sides, strict=True))
    return top, left, bottom, right


def cutmix(images: Tensor, targets: Tensor, box: tuple[int, int, int, int], num_classes: int) -> tuple[Tensor, Tensor]:
    """Images with the partner's pixels in the box, and labels in the proportion of the areas; see `partners`."""
    top, left, bottom, right = box
    partner = partners(len(images), images.device)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    return mixed, mix_targets(targets, partner, share, num_classes)


def random_cutmix(
    images: Tensor, targets: Tensor, alpha: float, draws: Draws, num_classes: int
) -> tuple[Tensor, Tensor]:
    """`cutmix` with a share from Beta(alpha, alpha) and a centre that is uniform over the pixels."""
    height, width = images.shape[2:]
    share, centre = draws.beta(alpha), (int(draws.number() * height), int(draws.number() * width))
    return cutmix(images, targets, box_of(share, centre, (height, width)), num_classes)


@register_regularizer
@dataclass(frozen=True)
class CutMix(Regularizer):
    """With a probability for each batch: paste one box of the partner's image, and weight both labels by area.

    l comes from Beta(alpha, alpha). The box has height H sqrt(1 - l) and width W sqrt(1 - l), rounded down to even
    numbers, and its centre is uniform over the pixels. It is clipped at the border. The weight of the own label is then
    1 - area / (H W), not l.

    Args:
        alpha: of the Beta distribution.
        probability: of a batch to be mixed. The paper has 0.5 for CIFAR and 1 for ImageNet.
    """

    name = "cutmix"
    family = "data"
    place = "mix"
    paper = "arXiv:1905.04899 (2019)"
    summary = "a box of each image from another image, labels by area"
    alone = "mixer"
    soft_targets = True

    alpha: float = 1.0
    probability: float = 0.5

    def check(self) -> None:
        """Alpha must be above 0, the probability above 0 and at most 1."""
        check_number("alpha", self.alpha, lambda v: v > 0, "a number above 0")
        check_number("probability", self.probability, lambda v: 0 < v <= 1, "a number above 0 and at most 1")

    def batch(self, images: Tensor, targets: Tensor, draws: Draws, num_classes: int) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W), and class weights (N, classes) if the batch was mixed."""
        if draws.number() >= self.probability:
            return images, targets
        return random_cutmix(images, targets, self.alpha, draws, num_classes)
