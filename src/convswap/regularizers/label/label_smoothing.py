"""Label smoothing, which is a field of the recipe: this is its name among the methods."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import check_number
from ..contract import Regularizer
from ..registry import register_regularizer


@register_regularizer
@dataclass(frozen=True)
class LabelSmoothing(Regularizer):
    """y = (1 - e) onehot + e / K in the cross entropy over K classes.

    A recipe holds the strength in its field `label_smoothing`. Naming the method sets this field, so that equal
    trainings have equal descriptions.

    Args:
        epsilon: e.
    """

    name = "label_smoothing"
    family = "label"
    place = "loss"
    paper = "Rethinking the Inception architecture, arXiv:1512.00567 (2015)"
    summary = "a part of each label is spread over all classes"
    alone = "targets"
    replaces_smoothing = True
    cost = "none"

    epsilon: float = 0.1

    def check(self) -> None:
        """Epsilon is a fraction."""
        check_number("epsilon", self.epsilon, lambda v: 0 < v < 1, "a number above 0 and below 1")

    def smoothing(self, done: float) -> float:
        """Epsilon throughout."""
        return self.epsilon
