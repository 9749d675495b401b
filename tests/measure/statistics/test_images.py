"""The hierarchical bootstrap over seeds and images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from convswap.errors import UsageError
from convswap.measure.statistics import interval_for_new_images

A = np.array([[1, 1, 0], [1, 0, 1]], dtype=bool)
B = np.array([[0, 1, 0], [1, 0, 0]], dtype=bool)


def every_difference() -> list[float]:
    """All resamples: 2^2 pairs of seeds on each side, and 3^3 triples of images that both sides share."""
    seeds = list(itertools.product(range(2), repeat=2))
    images = list(itertools.product(range(3), repeat=3))
    return [float(A[np.ix_(s, i)].mean() - B[np.ix_(t, i)].mean()) for s in seeds for t in seeds for i in images]


def test_the_interval_is_that_of_all_resamples() -> None:
    found = interval_for_new_images(A, B, 0.8, resamples=20_000)
    assert found.difference == pytest.approx(A.mean() - B.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(every_difference(), [0.1, 0.9])), abs=1e-9)
    assert found.images == 3


def test_images_that_both_sides_share_cancel() -> None:
    same = np.tile(np.arange(100) < 60, (3, 1))
    found = interval_for_new_images(same, same)
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)


def test_it_is_wider_than_an_interval_over_seeds_alone() -> None:
    generator = np.random.default_rng(0)
    hard = generator.random(200)
    a, b = (generator.random((4, 200)) < np.clip(hard + shift, 0, 1) for shift in (0.05, 0.0))
    found = interval_for_new_images(a, b)
    by_image = a.mean(0) - b.mean(0)
    images_alone = 2 * 1.96 * by_image.std() / np.sqrt(200)
    assert found.high - found.low > images_alone
    assert interval_for_new_images(a, b) == found, "the draws are seeded"


@pytest.mark.parametrize(
    ("correct", "message"),
    [
        (np.ones(3), "correct of shape"),
        (np.ones((0, 3)), "correct of shape"),
        (np.full((2, 3), 2), "correct of shape"),
        (np.full((2, 3), 0.5), "correct of shape"),
        (np.ones((2, 4)), "4 images and baseline 3"),
    ],
)
def test_bad_tables_are_named(correct: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        interval_for_new_images(correct, B)
    with pytest.raises(UsageError, match="confidence"):
        interval_for_new_images(A, B, 95)
