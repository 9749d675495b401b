"""TSLA: label smoothing first, hard labels after."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import check_number
from ..contract import Regularizer
from ..registry import register_regularizer


@register_regularizer
@dataclass(frozen=True)
class TSLA(Regularizer):
    """Two-stage label smoothing: y = (1 - e) onehot + e / K until a part of the training is over, then e = 0.

    The strength and the moment of the switch in the paper's experiments could not be confirmed. The defaults are ours.

    Args:
        epsilon: e, the smoothing of the first stage.
        until: the part of the training after which labels are hard.
    """

    name = "tsla"
    family = "label"
    place = "loss"
    paper = "arXiv:2006.11653 (2020)"
    summary = "label smoothing in a first part of the training, hard labels after"
    alone = "targets"
    replaces_smoothing = True
    cost = "none"

    epsilon: float = 0.1
    until: float = 0.5

    def check(self) -> None:
        """Both are fractions."""
        check_number("epsilon", self.epsilon, lambda v: 0 < v < 1, "a number above 0 and below 1")
        check_number("until", self.until, lambda v: 0 < v < 1, "a fraction above 0 and below 1")

    def smoothing(self, done: float) -> float:
        """`epsilon`, then 0."""
        return self.epsilon if done < self.until else 0.0
