"""Early stopping: the weights of the best epoch on the validation part, and what that costs in fairness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .average import copy_tensors, held_tensors


def best_epoch(history: Sequence[dict[str, Any]]) -> int:
    """The number of the epoch with the highest validation accuracy. Of equal ones, the lower validation loss counts.

    Of epochs equal in both, the first is the best. 0 for an empty history.

    >>> rows = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.6, 0.1)]
    >>> best_epoch([{"validation_accuracy": a, "validation_loss": l} for a, l in rows])
    3
    """
    scores = [(row["validation_accuracy"], -row["validation_loss"]) for row in history]
    return scores.index(max(scores)) + 1 if scores else 0


class EarlyStopping:
    """Keeps the best weights, and says when a training is over. With `patience=0` it does neither.

    Args:
        patience: so many epochs in a row without a better one end the training.
        epochs: the recipe's number of epochs.
    """

    def __init__(self, patience: int, epochs: int) -> None:
        self.patience, self.epochs = patience, epochs
        self.best: dict[str, Tensor] = {}

    def see(self, history: Sequence[dict[str, Any]], model: nn.Module) -> None:
        """Keep the network's tensors if the last epoch is the best so far. The network holds what was evaluated."""
        if self.patience and best_epoch(history) == len(history):
            self.best = {name: tensor.detach().clone() for name, tensor in held_tensors(model).items()}

    def over(self, history: Sequence[dict[str, Any]]) -> bool:
        """Whether the training ends after these epochs."""
        if len(history) >= self.epochs:
            return True
        return bool(self.patience) and len(history) - best_epoch(history) >= self.patience

    def apply(self, model: nn.Module) -> None:
        """Write the best weights into the network, if any are kept."""
        if self.best:
            copy_tensors(self.best, held_tensors(model))

    def warning(self, history: Sequence[dict[str, Any]]) -> tuple[str, ...]:
        """What a reader of the result must know."""
        best, done = best_epoch(history) if self.patience else self.epochs, len(history)
        if best == self.epochs:
            return ()
        ended = f"ended after epoch {done} of {self.epochs}" if done < self.epochs else f"had its {done} epochs"
        return (
            f"early stopping (patience={self.patience}): the training {ended} and kept epoch {best}, the best on the "
            "validation part; other units train for other numbers of epochs and leave the schedule elsewhere, so a "
            "difference between units may be one of training time",
        )
