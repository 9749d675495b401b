"""An interval for new images: seeds and test images are both a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...errors import UsageError, check_whole
from .bootstrap import percentile
from .values import Array, share

RESAMPLES = 1000


@dataclass(frozen=True)
class ImageInterval:
    """A difference of mean accuracies with an interval for other seeds *and* other images of the same kind.

    Attributes:
        difference: of the mean accuracies, a fraction.
        low: lower end of the interval.
        high: its upper end.
        images: number of test images.
    """

    difference: float
    low: float
    high: float
    images: int


def interval_for_new_images(
    correct: ArrayLike,
    baseline: ArrayLike,
    confidence: float = 0.95,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ImageInterval:
    """A hierarchical bootstrap: each resample draws the seeds of each side, and the images, which both sides share.

    difference* = mean over the drawn images of (mean over the drawn seeds of `correct` - the same of `baseline`). A
    test set is one sample of the images that a network may meet. An interval over seeds alone is about that set only.

    Args:
        correct: whether each run got each image right, (seeds, images) of bool.
        baseline: the same of the baseline, for the same images in the same order.
        confidence: of the percentile interval.
        resamples: how many.
        seed: of the draws.

    Raises:
        UsageError: a table is not two-dimensional, empty, or has other values than 0 and 1; the images differ in
            number; a number out of its bounds.
    """
    a, b = _table("correct", correct), _table("baseline", baseline)
    if a.shape[1] != b.shape[1]:
        raise UsageError(f"correct has {a.shape[1]} images and baseline {b.shape[1]}; give the same images of both")
    share("confidence", confidence, 0.95)
    check_whole("resamples", resamples)
    generator, images = np.random.default_rng(seed), a.shape[1]
    draws = np.empty(resamples)
    for index in range(resamples):
        counts = np.bincount(generator.integers(images, size=images), minlength=images)
        mine, theirs = (table[generator.integers(len(table), size=len(table))].sum(axis=0) for table in (a, b))
        draws[index] = counts @ (mine / len(a) - theirs / len(b)) / images
    return ImageInterval(float(a.mean() - b.mean()), *percentile(draws, confidence), images)


def _table(name: str, values: ArrayLike) -> Array:
    table: np.ndarray[Any, Any] = np.asarray(values)
    if table.ndim != 2 or 0 in table.shape or not np.isin(table, (0, 1)).all():
        raise UsageError(
            f"{name} of shape {table.shape} is not allowed; give (seeds, images) of True for every image that was right"
        )
    return table.astype(np.float64)
