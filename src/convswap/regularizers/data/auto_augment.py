"""AutoAugment: a policy of operations that was found by search."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import check_choice
from ..contract import Regularizer, Setting
from ..draws import Draws
from ..registry import register_regularizer
from .policies import check_channels, each_image


@register_regularizer
@dataclass(frozen=True)
class AutoAugment(Regularizer):
    """For each image one of 25 sub-policies: two operations, each with its probability and its magnitude.

    The operations and policies are torchvision's (`torchvision.transforms.v2.AutoAugment`). Pixels that come in from
    outside are black.

    Args:
        policy: `"cifar10"`, `"imagenet"` or `"svhn"`: the data that the policy was found for.
    """

    name = "auto_augment"
    family = "data"
    place = "pixels"
    paper = "arXiv:1805.09501 (2018)"
    summary = "two operations for each image, from a policy found by search"
    cost = "one pass of Python for each image, on the CPU"
    alone = "policy"

    policy: str = "cifar10"

    def check(self) -> None:
        """The policy is one of three."""
        check_choice("policy", self.policy, ("cifar10", "imagenet", "svhn"))

    def check_setting(self, setting: Setting) -> None:
        """One or three channels."""
        check_channels(self.name, setting)

    def pixels(self, images: Tensor, draws: Draws) -> Tensor:
        """(N, C, H, W) uint8 -> the same shape."""
        from torchvision.transforms import v2

        return each_image(v2.AutoAugment(v2.AutoAugmentPolicy(self.policy)), images, draws)
