"""The fingerprint of arrays follows every number of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from convswap.data.arrays import data_from_arrays

Arrays = dict[str, np.ndarray]


def arrays() -> Arrays:
    draw = np.random.default_rng(0)
    return {
        "x_train": draw.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8),
        "y_train": np.arange(6) % 3,
        "x_test": draw.integers(0, 256, (4, 4, 5, 3), dtype=np.uint8),
        "y_test": np.arange(4) % 3,
    }


def fingerprint(given: Arrays) -> str:
    return data_from_arrays("a", given, source="a").fingerprint


def another_pixel(given: Arrays, part: str) -> None:
    given[f"x_{part}"][3, 2, 1, 0] ^= 1


def another_label(given: Arrays, part: str) -> None:
    labels = given[f"y_{part}"]
    labels[0], labels[1] = labels[1], labels[0]


def one_image_less(given: Arrays, part: str) -> None:
    for name in (f"x_{part}", f"y_{part}"):
        given[name] = given[name][:-1]


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("change", [another_pixel, another_label, one_image_less])
def test_every_change_is_seen(change: Callable[[Arrays, str], None], part: str) -> None:
    changed = arrays()
    change(changed, part)
    assert fingerprint(changed) != fingerprint(arrays())


def test_the_layout_of_the_file_is_not() -> None:
    other = arrays()
    for name in ("x_train", "x_test"):
        other[name] = other[name].transpose(0, 3, 1, 2)
    assert fingerprint(other) == fingerprint(arrays())
