"""The fingerprint of arrays follows every number of them, that of a folder the part each file stands in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convswap.data.arrays import data_from_arrays
from convswap.data.image_folder import _fingerprint
from convswap.data.scan import Entry

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


def test_the_same_files_split_another_way_are_other_data(tmp_path: Path) -> None:
    """Today the split follows from the names; were the rule another one, trials before and after must not be mixed."""
    entries = [Entry(tmp_path / f"{name}.png", 0) for name in "abc"]
    for entry in entries:
        entry.path.write_bytes(b"image")
    one = _fingerprint(tmp_path, {"train": entries[:2], "test": entries[2:]})
    assert one == _fingerprint(tmp_path, {"train": entries[:2], "test": entries[2:]})
    assert one != _fingerprint(tmp_path, {"train": entries[:1], "test": entries[1:]})
