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


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, reduction: str = "mean", *, label_smoothing: float = 0.0
) -> Tensor:
    """Mean over images and classes of the cross entropy of one sigmoid per class, as in arXiv:2110.00476.

    The target is s / C for each of the C classes, and 1 - s more for the image's own, with s = `label_smoothing`.

    Args:
        logits: (N, classes).
        targets: class numbers (N,), or class weights (N, classes).
        reduction: `"mean"`, or `"none"` for the mean over the classes alone, (N,).
        label_smoothing: from 0 to below 1.

    >>> round(float(binary_cross_entropy(torch.zeros(1, 4), torch.tensor([0]))), 4)  # ln 2
    0.6931
    """
    classes = logits.shape[1]
    hot = (F.one_hot(targets, classes) if targets.ndim == 1 else targets).to(logits.dtype)
    smooth = hot * (1 - label_smoothing) + label_smoothing / classes
    each = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(1)
    return each.mean() if reduction == "mean" else each


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    reduction: str = "mean",
    *,
    label_smoothing: float = 0.0,
    weights_C: Tensor | None = None,
) -> Tensor:
    """torch's cross entropy, of which an image of class c counts `weights_C[c]`.

    The mean is over the images and not over their weights, so that the parts of a batch add up to the batch. A mixed
    image counts the mean of its classes' weights.

    Args:
        logits: (N, classes).
        targets: class numbers (N,), or class weights (N, classes).
        reduction: `"mean"` or `"none"`, (N,).
        label_smoothing: from 0 to below 1.
        weights_C: (classes,). None: all count alike.
    """
    if weights_C is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction=reduction)
    each = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    each = each * (weights_C[targets] if targets.ndim == 1 else targets.to(weights_C.dtype) @ weights_C)
    return each.mean() if reduction == "mean" else each


def training_loss(recipe: Recipe, weights_C: Tensor | None = None) -> Callable[..., Tensor]:
    """The recipe's loss of (logits, targets). With `reduction="none"` it gives one value an image.

    Args:
        recipe: names the loss.
        weights_C: how much an image of each class counts in the cross entropy.
    """
    if recipe.loss == "squared_hinge":
        return squared_hinge
    if recipe.loss == "binary_cross_entropy":
        return partial(binary_cross_entropy, label_smoothing=recipe.label_smoothing)
    return partial(cross_entropy, label_smoothing=recipe.label_smoothing, weights_C=weights_C)
