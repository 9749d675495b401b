"""The losses a recipe can name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from .recipes import Recipe


def squared_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over images and classes of `max(0, 1 - t y)^2`, with t = +1 for the image's class and -1 for all others.

    This is the loss of BinaryNet (arXiv:1602.02830). The loss depends on the scale of the logits y. Networks trained
    with it therefore normalise the logits (by a BatchNorm after the last layer).

    Args:
        logits: (N, classes).
        labels: (N,), class numbers.

    >>> float(squared_hinge(torch.tensor([[2.0, -1.0]]), torch.tensor([0])))
    0.0
    >>> float(squared_hinge(torch.tensor([[0.0, 0.0]]), torch.tensor([0])))
    1.0
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    sign = 2 * F.one_hot(labels, logits.shape[1]).to(logits.dtype) - 1
    return F.relu(1 - sign * logits).square().mean()


def binary_cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean over images and classes of the cross entropy of one sigmoid per class, as in arXiv:2110.00476.

    The target is s / C for each of the C classes, and 1 - s more for the image's own, with s = `label_smoothing`.

    Args:
        logits: (N, classes).
        labels: (N,), class numbers.
        label_smoothing: from 0 to below 1.

    >>> round(float(binary_cross_entropy(torch.zeros(1, 4), torch.tensor([0]))), 4)  # ln 2
    0.6931
    """
    classes = logits.shape[1]
    target = F.one_hot(labels, classes).to(logits.dtype) * (1 - label_smoothing) + label_smoothing / classes
    return F.binary_cross_entropy_with_logits(logits, target)


def training_loss(recipe: Recipe, weights_C: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """The recipe's loss of (logits, labels).

    Args:
        recipe: names the loss.
        weights_C: how much an image of each class counts. The mean is over the images and not over their weights, so
            that the parts of a batch add up to the batch.
    """
    if recipe.loss == "squared_hinge":
        return squared_hinge
    smoothing = recipe.label_smoothing
    if recipe.loss == "binary_cross_entropy":
        return partial(binary_cross_entropy, label_smoothing=smoothing)
    if weights_C is not None:
        return lambda logits, labels: (
            weights_C[labels] * F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        ).mean()
    return lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=smoothing)
