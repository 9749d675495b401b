"""Scores of a table of predictions over several variants; each definition is named after where it is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError, check_choice, check_whole
from .corruptions import COMMON

ALEXNET_ERRORS: dict[str, float] = dict(
    zip(
        COMMON,
        (
            *(0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816),
            *(0.826572, 0.819324, 0.564592, 0.853204, 0.646056, 0.717840, 0.606500),
        ),
        strict=True,
    )
)
"""AlexNet's mean error over the five severities of each corruption of ImageNet-C: the unit of mCE."""


def all_pairs_consistency(classes_NV: Tensor) -> float:
    """Chance that two variants of an image, drawn with replacement, get the same class.

    With n_ic of V variants predicted as c: the mean over images of sum_c (n_ic / V)². Over all crops of one size it is
    the expectation of Zhang's random-pair consistency.

    >>> import torch
    >>> all_pairs_consistency(torch.tensor([[1, 1, 1, 2], [3, 3, 3, 3]]))
    0.8125
    """
    _check_table(classes_NV, 1)
    counts = F.one_hot(classes_NV.long(), int(classes_NV.max()) + 1).sum(1).double()
    return float((counts / classes_NV.shape[1]).square().sum(1).mean())


def pair_consistency(first_NE: Tensor, second_NE: Tensor) -> float:
    """Zhang (arXiv:1904.11486): share of equal predictions on two random crops, over images and epochs; both (N, E).

    >>> import torch
    >>> pair_consistency(torch.tensor([[1], [2]]), torch.tensor([[1], [3]]))
    0.5
    """
    _check_table(first_NE, 1)
    if first_NE.shape != second_NE.shape:
        raise UsageError(f"second of shape {tuple(second_NE.shape)} is not allowed; give {tuple(first_NE.shape)}")
    return float((first_NE == second_NE).double().mean())


def flip_rate(classes_NF: Tensor, apart: int) -> float:
    """WCNN's mFR(k) (arXiv:2212.00394): share of frames k apart with different predictions, over images and all pairs.

    Frames are shifted by 0, 1, 2, ... steps. Not divided by AlexNet's, unlike Hendrycks' mFR.

    >>> import torch
    >>> flip_rate(torch.tensor([[1, 1, 2, 2]]), 1), flip_rate(torch.tensor([[1, 1, 2, 2]]), 2)
    (0.3333333333333333, 1.0)
    """
    _check_table(classes_NF, 2)
    check_whole("apart", apart, None)
    if not 1 <= apart < classes_NF.shape[1]:
        raise UsageError(f"apart={apart} is not allowed for {classes_NF.shape[1]} frames; give 1 or more, below that")
    return float((classes_NF[:, apart:] != classes_NF[:, :-apart]).double().mean())


def flip_probability(classes_NF: Tensor, against: str = "previous") -> float:
    """Hendrycks' flip probability (arXiv:1903.12261): share of frames predicted differently from the one before.

    Args:
        classes_NF: predictions of each sequence's frames, (N, F).
        against: `"previous"`, or `"first"` as published for noise, whose frames have no order.

    >>> import torch
    >>> flip_probability(torch.tensor([[1, 2, 1]])), flip_probability(torch.tensor([[1, 2, 1]]), "first")
    (1.0, 0.5)
    """
    _check_table(classes_NF, 2)
    check_choice("against", against, ("previous", "first"))
    reference = classes_NF[:, :-1] if against == "previous" else classes_NF[:, :1]
    return float((classes_NF[:, 1:] != reference).double().mean())


def stability(logits_FNC: Tensor, labels_N: Tensor) -> tuple[float, float]:
    """Zhang's stability (arXiv:1904.11486) of the right class's probability over the frames of `crop_diagonal`.

    Args:
        logits_FNC: of F frames of N images.
        labels_N: the right classes.

    Returns:
        The mean over images and frames, and the mean over images of the standard deviation over frames (dividing by F).

    Raises:
        UsageError: shapes that do not fit.

    >>> import torch
    >>> logits = torch.tensor([[[0.25, 0.75]], [[0.75, 0.25]]]).log()
    >>> [round(value, 6) for value in stability(logits, torch.tensor([0]))]
    [0.5, 0.25]
    """
    if logits_FNC.ndim != 3 or not logits_FNC.numel() or labels_N.shape != logits_FNC.shape[1:2]:
        raise UsageError(
            f"logits of shape {tuple(logits_FNC.shape)} and labels of shape {tuple(labels_N.shape)} are not allowed; "
            "give (frames, images, classes) and (images,)"
        )
    places = labels_N.expand(len(logits_FNC), -1)[..., None]
    chances = logits_FNC.double().softmax(2).gather(2, places)[..., 0]
    return float(chances.mean()), float(chances.std(0, correction=0).mean())


def shift_divergence(reference_NC: Tensor, moved_NC: Tensor) -> float:
    """WCNN's divergence: mean over images of sum_c P0 log(P0 / Pv), from logits of the image and of the moved one.

    Raises:
        UsageError: the two are not of one shape, (images, classes).
    """
    if reference_NC.ndim != 2 or reference_NC.shape != moved_NC.shape or not len(reference_NC):
        raise UsageError(
            f"logits of shapes {tuple(reference_NC.shape)} and {tuple(moved_NC.shape)} are not allowed; give two "
            "(images, classes)"
        )
    p, q = reference_NC.double().log_softmax(1), moved_NC.double().log_softmax(1)
    return float((p.exp() * (p - q)).sum(1).mean())


def mean_corruption_error(errors: Mapping[str, Sequence[float]], baseline: Mapping[str, float] | None = None) -> float:
    """mCE: mean over corruptions of the errors' sum over severities, each divided by the baseline's sum.

    Args:
        errors: by corruption, one error for each severity, as fractions.
        baseline: mean error over the severities by corruption; by default AlexNet's on ImageNet-C, the custom for
            ImageNet. On CIFAR the plain mean error is customary: a baseline of 1 each.

    Raises:
        UsageError: a corruption has no baseline above 0, or no errors.

    >>> mean_corruption_error({"fog": [0.25, 0.5]}, {"fog": 0.75})
    0.5
    """
    known = ALEXNET_ERRORS if baseline is None else baseline
    if not errors or (missing := [name for name in errors if name not in known]):
        raise UsageError(
            f"errors of {missing if errors else 'no corruption'} have no baseline; known: {', '.join(known)}"
        )
    if bad := [name for name, row in errors.items() if not row or not known[name] > 0]:
        raise UsageError(f"errors of {bad} are empty, or their baseline is not above 0; mCE is not defined")
    return sum(sum(row) / (len(row) * known[name]) for name, row in errors.items()) / len(errors)


def relative_corruption_error(
    errors: Mapping[str, Sequence[float]], clean: float, baseline: Mapping[str, float], baseline_clean: float
) -> float:
    """Relative mCE: as `mean_corruption_error`, with each model's clean error taken off before dividing.

    >>> relative_corruption_error({"fog": [0.5, 0.75]}, 0.25, {"fog": 1.0}, 0.25)
    0.5
    """
    rises = {name: [error - clean for error in row] for name, row in errors.items()}
    return mean_corruption_error(rises, {name: value - baseline_clean for name, value in baseline.items()})


def _check_table(classes: Tensor, least: int) -> None:
    if classes.is_floating_point() or classes.ndim != 2 or classes.shape[1] < least or not len(classes):
        raise UsageError(
            f"classes of shape {tuple(classes.shape)} and {classes.dtype} are not allowed; give whole numbers, "
            f"(images, {least} or more)"
        )
