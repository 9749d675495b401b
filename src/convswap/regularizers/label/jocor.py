"""JoCoR: two networks that agree, trained on the images they find easy. For noisy labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...errors import check_number
from ..contract import Objective, Regularizer, Setting
from ..registry import register_regularizer
from .twins import Twins, relative_entropy


def jocor_loss(one_N: Tensor, agreement_N: Tensor, *, agree: float, forget: float) -> Tensor:
    """The mean of (1 - `agree`) one + `agree` agreement over the (1 - `forget`) images of smallest value.

    Args:
        one_N: the losses of both networks, added up, (N,).
        agreement_N: KL of both directions, added up, (N,).
        agree: the paper's lambda.
        forget: the part of the batch that is left out. The number of the others is rounded down, and is at least 1.
    """
    value_N = (1 - agree) * one_N + agree * agreement_N
    kept = max(1, int((1 - forget) * len(value_N)))
    return torch.topk(value_N, kept, largest=False).values.mean()


class JointlyRegularized(Twins):
    """The objective of JoCoR."""

    def __init__(self, inner: Objective, model: nn.Module, method: JoCoR, setting: Setting) -> None:
        super().__init__(inner, model, method.name, setting)
        self.method, self.forget = method, 0.0

    def progress(self, done: float) -> None:
        """The part to forget rises linearly."""
        super().progress(done)
        self.forget = self.method.forget * min(1.0, done / self.method.ramp if self.method.ramp else 1.0)

    def joint_loss(self, first: Tensor, second: Tensor, targets: Tensor) -> Tensor:
        """`jocor_loss` of both answers."""
        both = self.loss(first, targets, "none") + self.loss(second, targets, "none")
        agreement = relative_entropy(first, second) + relative_entropy(second, first)
        return jocor_loss(both, agreement, agree=self.method.agree, forget=self.forget)


_NOISY = "jocor chooses images by how well their label fits, and mixed images have no label of their own"


@register_regularizer
@dataclass(frozen=True)
class JoCoR(Regularizer):
    """L = (1 - l) (CE_1 + CE_2) + l (KL(p_1 || p_2) + KL(p_2 || p_1)) for each image; the smallest 1 - f(t) count.

    Two networks see the same batches and are trained by one optimizer. The second has other initial weights, and is
    dropped at the end. With several processes each one chooses from its own part of the batch. With labels that are
    right the method only costs.

    The paper's f rises by epochs, over 10 of 200. Here f rises step by step, over a part of the training.

    Args:
        agree: the paper's l. Its experiments have 0.9 for CIFAR-10 and 0.85 for CIFAR-100.
        forget: the final f, which should be the part of wrong labels.
        ramp: the part of the training over which f rises to it.
    """

    name = "jocor"
    family = "label"
    place = "step"
    two_networks = True
    paper = "Combating noisy labels by agreement, arXiv:2003.02752 (2020)"
    summary = "two networks that agree, trained on the images with the smallest loss (for noisy labels)"
    cost = "a second network: twice the time and memory of a step"
    excludes: ClassVar[dict[str, str]] = {"mixup": _NOISY, "cutmix": _NOISY, "mixup_cutmix": _NOISY}

    agree: float = 0.9
    forget: float = 0.2
    ramp: float = 0.05

    def check(self) -> None:
        """All are fractions below 1."""
        check_number("agree", self.agree, lambda v: 0 <= v < 1, "a number from 0 to below 1")
        check_number("forget", self.forget, lambda v: 0 <= v < 1, "a number from 0 to below 1")
        check_number("ramp", self.ramp, lambda v: 0 <= v < 1, "a fraction from 0 to below 1")

    def objective(self, inner: Objective, model: nn.Module, setting: Setting) -> Objective:
        """Two networks and their joint loss."""
        return JointlyRegularized(inner, model, self, setting)
