"""Mutual learning: two networks that teach each other while they train (online distillation)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ...errors import check_number
from ..contract import Objective, Regularizer, Setting
from ..registry import register_regularizer
from .twins import Twins, relative_entropy


class Mutual(Twins):
    """The objective of mutual learning."""

    def __init__(self, inner: Objective, model: nn.Module, method: MutualLearning, setting: Setting) -> None:
        super().__init__(inner, model, method.name, setting)
        self.weight = method.weight

    def joint_loss(self, first: Tensor, second: Tensor, targets: Tensor) -> Tensor:
        """Each network learns from the labels and from the other's answer, which it takes as it is."""
        own = self.loss(first, targets) + self.loss(second, targets)
        taught = relative_entropy(second.detach(), first) + relative_entropy(first.detach(), second)
        return own + self.weight * taught.mean()


@register_regularizer
@dataclass(frozen=True)
class MutualLearning(Regularizer):
    """L_1 = CE_1 + w KL(p_2 || p_1) and L_2 = CE_2 + w KL(p_1 || p_2): two networks, each the other's teacher.

    No gradient flows through a teacher's answer. Both networks take their step at the same time. (In the paper the
    second one already sees the first one's new answer.) The second network has other initial weights, and is dropped at
    the end.

    Args:
        weight: w, 1 in the paper.
    """

    name = "mutual_learning"
    family = "label"
    place = "step"
    two_networks = True
    paper = "Deep mutual learning, arXiv:1706.00384 (2017)"
    summary = "two networks, each the other's teacher (online distillation)"
    cost = "a second network: twice the time and memory of a step"

    weight: float = 1.0

    def check(self) -> None:
        """The weight is above 0."""
        check_number("weight", self.weight, lambda v: v > 0, "a number above 0")

    def objective(self, inner: Objective, model: nn.Module, setting: Setting) -> Objective:
        """Two networks and the sum of their losses."""
        return Mutual(inner, model, self, setting)
