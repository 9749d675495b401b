"""The fingerprint of arrays follows every number of them, that of a folder every file's content, label and part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convswap.data.arrays import data_from_arrays
from convswap.data.image_folder import fingerprint as folder_fingerprint
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


def of_folder(train: str = "abc", test: str = "de", **changes: object) -> str:
    """The fingerprint of files whose contents are these letters, labelled 0, 1, 0, ... over both parts."""
    entries = [Entry(Path(f"{letter}.png"), index % 2) for index, letter in enumerate(train + test)]
    parts = {"train": entries[: len(train)], "test": entries[len(train) :]}
    given = {"class_names": ("ant", "bee"), "decoding": "RGB", **changes}
    return folder_fingerprint(parts, {"train": list(train), "test": list(test)}, **given)  # type: ignore[arg-type]


FOLDER_CHANGES: dict[str, dict[str, object]] = {
    "another content": {"train": "abd"},
    "exchanged contents": {"train": "bac"},
    "another split": {"train": "ab", "test": "cde"},
    "other names of classes": {"class_names": ("bee", "ant")},
    "other pixels": {"decoding": "grey"},
}


@pytest.mark.parametrize("change", FOLDER_CHANGES)
def test_every_change_of_a_folder_is_seen(change: str) -> None:
    assert of_folder() == of_folder()
    assert of_folder(**FOLDER_CHANGES[change]) != of_folder()  # type: ignore[arg-type]
