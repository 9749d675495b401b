"""The crops of a seed stay what they are: a trial described today is the same trial tomorrow."""

from __future__ import annotations

import pytest

from convswap.data.folder import random_crop


@pytest.mark.parametrize(
    ("arguments", "crop"),
    [
        ((375, 500, 0, 1, 2), (18, 176, 233, 259)),
        ((375, 500, 1, 1, 2), (46, 22, 262, 297)),
        ((60, 120, 7, 3, 11), (19, 54, 38, 32)),
        ((10, 1000, 0, 0, 0), (0, 493, 10, 13)),  # nothing fits: the largest of an allowed aspect
    ],
)
def test_known_crops(arguments: tuple[int, int, int, int, int], crop: tuple[int, int, int, int]) -> None:
    assert random_crop(*arguments) == crop
