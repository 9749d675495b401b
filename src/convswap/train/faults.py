"""Trainings that go wrong: what a diverged loss and an error in a model's own code say to the user."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConvswapError, TrainingError, described, first_line, own_frames

TIMES_CHANCE = 10.0
"""A final loss above so many times that of guessing, ln(classes), counts as diverged."""


def divergence(row: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """A warning for a training whose last epoch ended with a finite loss far above that of guessing, or nothing.

    Args:
        row: the metrics of the last epoch.
        num_classes: number of classes. Guessing costs ln(num_classes) nats per image.

    >>> divergence({"train_loss": 2.0, "test_loss": 2.3}, 10)
    ()
    """
    limit = TIMES_CHANCE * math.log(max(num_classes, 2))
    name, loss = max((("train", row["train_loss"]), ("test", row["test_loss"])), key=lambda pair: pair[1])
    if loss <= limit:
        return ()
    return (
        f"the {name} loss ended at {loss:.3g}, {loss / math.log(max(num_classes, 2)):.3g} times that of guessing among "
        f"{num_classes} classes: the training diverged; try a lower learning_rate (--learning-rate)",
    )


@contextmanager
def explained(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Turn an error that a training step of the model raises into one line, where the user can act on it.

    Raises:
        TrainingError: the error comes from the user's own files, or from a BatchNorm that saw a single value.
    """
    try:
        yield
    except ConvswapError:
        raise
    except ValueError as error:
        if len(images) > 1 or not any(isinstance(module, _BatchNorm) for module in model.modules()):
            _raise_own(error)
            raise
        raise TrainingError(
            f"a batch of one image is too small for the model's BatchNorm ({first_line(error)}); use a batch_size "
            "(--batch-size) of at least 2"
        ) from error
    except Exception as error:  # the user's code may raise anything
        _raise_own(error)
        raise


def _raise_own(error: Exception) -> None:
    frames = own_frames(error)
    if frames:
        raise TrainingError(f"the model fails with {described(error)}{frames}") from error
