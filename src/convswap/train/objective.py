"""What a training step computes: the recipe's loss, and what the recipe's regularisers make of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ..regularizers import Objective, Outcome, Regularizer, Setting, hard_labels, overrides
from ..regularizers.contract import Forward
from .losses import cross_entropy, training_loss
from .recipes import Recipe


class Plain(Objective):
    """One forward pass and the recipe's loss."""

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        self._loss = loss

    def loss(self, logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The recipe's loss."""
        return self._loss(logits, targets, reduction=reduction)

    def step(self, forward: Forward, images: Tensor, targets: Tensor) -> Outcome:
        """The loss of the logits."""
        logits = forward(images)
        return Outcome(self._loss(logits, targets), logits, hard_labels(targets))


class Scheduled(Plain):
    """The cross entropy with a label smoothing that changes during the training."""

    def __init__(self, smoothing: Callable[[float], float], weights_C: Tensor | None) -> None:
        self.smoothing, self.weights_C = smoothing, weights_C
        self.progress(0.0)

    def progress(self, done: float) -> None:
        """Take the smoothing of this moment."""
        self._loss = partial(cross_entropy, label_smoothing=self.smoothing(done), weights_C=self.weights_C)


def build_objective(
    recipe: Recipe,
    methods: tuple[Regularizer, ...],
    model: nn.Module,
    setting: Setting,
    weights_C: Tensor | None = None,
) -> Objective:
    """The recipe's loss, with the one method that schedules its smoothing and the one that changes the step."""
    smooth = [method for method in methods if overrides(method, Regularizer.smoothing)]
    objective: Objective = (
        Scheduled(smooth[0].smoothing, weights_C) if smooth else Plain(training_loss(recipe, weights_C))
    )
    for method in methods:
        if overrides(method, Regularizer.objective):
            objective = method.objective(objective, model, setting)
    return objective
