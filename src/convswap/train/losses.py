"""The losses a recipe can name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from .recipes import Recipe


def squared_hinge(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Mean over images and classes of `max(0, 1 - t y)^2`, with t = +1 for the image's class and -1 for all others.

    This is the loss of BinaryNet (arXiv:1602.02830). The loss depends on the scale of the logits y. Networks trained
    with it therefore normalise the logits (by a BatchNorm after the last layer).

    Args:
        logits: (N, classes).
        labels: (N,), class numbers.
        reduction: `"mean"`, or `"none"` for the mean over the classes alone, (N,).

    >>> float(squared_hinge(torch.tensor([[2.0, -1.0]]), torch.tensor([0])))
    0.0
    >>> float(squared_hinge(torch.tensor([[0.0, 0.0]]), torch.tensor([0])))
    1.0
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    sign = 2 * F.one_hot(labels, logits.shape[1]).to(logits.dtype) - 1
    squares = F.relu(1 - sign * logits).square()
    return squares.mean() if reduction == "mean" else squares.mean(1)


def training_loss(recipe: Recipe) -> Callable[..., Tensor]:
    """The recipe's loss of (logits, targets). With `reduction="none"` it gives one value an image."""
    if recipe.loss == "squared_hinge":
        return squared_hinge
    return partial(F.cross_entropy, label_smoothing=recipe.label_smoothing)
