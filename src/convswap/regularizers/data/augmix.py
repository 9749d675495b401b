"""AugMix: mixtures of augmentation chains, and a loss that asks for equal answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import check_number, check_whole
from ..contract import Forward, Objective, Outcome, Regularizer, Setting, hard_labels
from ..draws import Draws
from ..registry import register_regularizer
from .policies import check_channels, each_image

VERSIONS = 3
"""The image as it is, and two mixtures."""


def divergence(logits: list[Tensor]) -> Tensor:
    """The Jensen-Shannon divergence of several answers: the mean of KL(p_i || M), with M the mean of the p_i.

    Args:
        logits: each (N, classes).
    """
    chances = [F.softmax(one, dim=1) for one in logits]
    middle = torch.stack(chances).mean(0).clamp(1e-7, 1).log()
    terms = [F.kl_div(middle, chance, reduction="batchmean") for chance in chances]
    return torch.stack(terms).mean()


class Consistent(Objective):
    """Loss(clean) + weight JSD(clean, first mixture, second mixture)."""

    def __init__(self, inner: Objective, weight: float) -> None:
        self.inner, self.weight = inner, weight

    def loss(self, logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The recipe's loss."""
        return self.inner.loss(logits, targets, reduction)

    def progress(self, done: float) -> None:
        """For a smoothing that changes."""
        self.inner.progress(done)

    def step(self, forward: Forward, images: Tensor, targets: Tensor) -> Outcome:
        """One forward pass of all versions together."""
        versions = list(forward(images).chunk(VERSIONS))
        loss = self.loss(versions[0], targets) + self.weight * divergence(versions)
        return Outcome(loss, versions[0], hard_labels(targets))


_MIXED = "its loss compares versions of one image, and mixed images have no clean version"


@register_regularizer
@dataclass(frozen=True)
class AugMix(Regularizer):
    """Each batch holds every image and two mixtures of it. The loss is loss(clean) + weight JSD(all three).

    A mixture is m x + (1 - m) (w_1 chain_1(x) + ... + w_k chain_k(x)): m from Beta(alpha, alpha), w from the Dirichlet
    distribution with alpha. A chain has one to three operations. They are torchvision's
    (`torchvision.transforms.v2.AugMix`), without those that resemble the corruptions of robustness tests (brightness,
    colour, contrast, sharpness), as in the authors' code by default.

    Args:
        severity: of the operations, 1 to 10.
        width: number k of chains.
        depth: operations of a chain, or -1 for one to three.
        alpha: of both distributions.
        weight: of the divergence in the loss.
    """

    name = "augmix"
    family = "data"
    place = "pixels"
    paper = "arXiv:1912.02781 (2019)"
    summary = "each image and two mixtures of augmentation chains, with a loss for equal answers"
    cost = "three times the images in a step, and two long passes of Python for each image, on the CPU"
    alone = "policy"
    excludes: ClassVar[dict[str, str]] = {"mixup": _MIXED, "cutmix": _MIXED, "mixup_cutmix": _MIXED}

    severity: int = 3
    width: int = 3
    depth: int = -1
    alpha: float = 1.0
    weight: float = 12.0

    def check(self) -> None:
        """Whole numbers of at least 1 (or a depth of -1), and numbers above 0."""
        check_whole("severity", self.severity, 1, 10)
        check_whole("width", self.width)
        if self.depth != -1:
            check_whole("depth", self.depth, hint=", or -1 for one to three")
        check_number("alpha", self.alpha, lambda v: v > 0, "a number above 0")
        check_number("weight", self.weight, lambda v: v > 0, "a number above 0")

    def check_setting(self, setting: Setting) -> None:
        """One or three channels."""
        check_channels(self.name, setting)

    def pixels(self, images: Tensor, draws: Draws) -> Tensor:
        """(N, C, H, W) uint8 -> (3 N, C, H, W): all images, all first mixtures, all second mixtures."""
        from torchvision.transforms import v2

        mix = v2.AugMix(self.severity, self.width, self.depth, self.alpha, all_ops=False)
        return torch.cat([images, *(each_image(mix, images, draws) for _ in range(VERSIONS - 1))])

    def objective(self, inner: Objective, model: nn.Module, setting: Setting) -> Objective:
        """The loss with the divergence."""
        return Consistent(inner, self.weight)
