"""Calibration: are predictions of 80 % confidence right 80 % of the time?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError, check_whole


@dataclass(frozen=True)
class Calibration:
    """Calibration of one set of predictions.

    Attributes:
        ece: expected calibration error: mean over images of |accuracy - confidence| of their bin.
        mce: the largest |accuracy - confidence| of a bin.
        nll: mean negative log likelihood of the right class.
        brier: mean squared distance between the probabilities and the right answer's 0s and 1s, summed over classes:
            from 0 to 2.
        edges: of the bins of confidence, n + 1 of them.
        counts: images by bin.
        accuracies: accuracy by bin; None where it is empty.
        confidences: mean confidence by bin; None where it is empty.
    """

    ece: float
    mce: float
    nll: float
    brier: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    accuracies: tuple[float | None, ...]
    confidences: tuple[float | None, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON; the last four draw the reliability diagram."""
        return asdict(self)


def calibration(logits_NC: Tensor, labels_N: Tensor, bins: int = 15) -> Calibration:
    """Calibration from logits, with equal bins of confidence over 0..1 (Guo et al., arXiv:1706.04599: 15 of them).

    A confidence on an edge belongs to the bin above it, 1 to the last.

    Raises:
        UsageError: shapes that do not fit, labels that are not classes, no images or no bins.
    """
    if logits_NC.ndim != 2 or labels_N.shape != logits_NC.shape[:1] or not len(labels_N):
        raise UsageError(
            f"logits of shape {tuple(logits_NC.shape)} and labels of shape {tuple(labels_N.shape)} are not allowed; "
            "give (images, classes) and (images,)"
        )
    check_whole("bins", bins)
    if not bool(logits_NC.isfinite().all()) or labels_N.dtype != torch.int64:
        raise UsageError(f"logits must be finite, labels torch.int64, got {labels_N.dtype}; NaN has no confidence")
    classes = logits_NC.shape[1]
    if not 0 <= int(labels_N.min()) <= int(labels_N.max()) < classes:
        raise UsageError(f"labels_N holds values that are not among the {classes} classes of the logits")
    logits = logits_NC.double()
    chances = logits.softmax(1)
    confidence, predicted = chances.max(1)
    right = (predicted == labels_N).double()
    # An epsilon of float64 keeps 0.7 out of the bin below its edge.
    which = (confidence * bins + 1e-9).long().clamp(max=bins - 1)
    counts = torch.bincount(which, minlength=bins)
    hits, sums = (torch.bincount(which, weights=values, minlength=bins) for values in (right, confidence))
    filled = counts > 0
    gaps = ((hits - sums).abs() / counts.clamp(min=1))[filled]
    return Calibration(
        ece=float((gaps * counts[filled]).sum() / len(labels_N)),
        mce=float(gaps.max()),
        nll=float(F.cross_entropy(logits, labels_N)),
        brier=float((chances - F.one_hot(labels_N, classes)).square().sum(1).mean()),
        edges=tuple(i / bins for i in range(bins + 1)),
        counts=tuple(counts.tolist()),
        accuracies=_means(hits, counts),
        confidences=_means(sums, counts),
    )


def _means(sums: Tensor, counts: Tensor) -> tuple[float | None, ...]:
    return tuple(s / n if n else None for s, n in zip(sums.tolist(), counts.tolist(), strict=True))
