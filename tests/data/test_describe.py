"""The line that says what a data set is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from convswap.data import Description, FolderImages, load_data
from convswap.errors import DataError

from .layouts import folder, image, load, split


def test_the_line_of_photographs() -> None:
    said = Description(
        counts={"train": {"ants": 123, "bees": 121}, "test": {"ants": 70, "bees": 83}},
        width=500,
        height=375,
        colours={"RGB": 397},
        left_out={"ants": {".heic": 5}},
    )
    assert str(said) == (
        "2 classes (ants 123, bees 121), 244 training and 153 test images of 500x375 (median), RGB; "
        "5 files are no images we read (.heic 5 in ants)"
    )
    assert said.as_dict()["line"] == str(said)


def test_many_classes_are_not_listed() -> None:
    equal = Description({"train": {str(i): 500 for i in range(100)}, "test": {"0": 10}}, 32, 32, {"RGB": 50_010})
    assert str(equal).startswith("100 classes (500 training images each), 50,000 training and 10 test images")
    uneven = Description(
        {"train": {str(i): i + 1 for i in range(1000)}, "test": {"0": 9}},
        32,
        32,
        {"grey": 7, "RGB": 2},
        one_size=True,
        left_out={str(i): {".svg": 2} for i in range(50)},
    )
    assert str(uneven) == (
        "1,000 classes (1 to 1,000 training images each), 500,500 training and 9 test images of 32x32, grey 7, RGB 2; "
        "100 files are no images we read (.svg 100 in 50 classes)"
    )


def test_digits_are_described() -> None:
    said = str(load_data("digits").description)
    assert said == "10 classes (139 to 146 training images each), 1,438 training and 359 test images of 8x8, grey"


def test_the_size_is_the_median(tmp_path: Path) -> None:
    root = split(tmp_path, "train", "test", count=2)
    for index in range(3):
        image(root / "train/ant" / f"large{index}.png", size=(40, 30))
    assert "images of 6x4 (median), RGB" in str(load(root).description)


def test_images_that_stand_twice_are_named(tmp_path: Path) -> None:
    root = split(tmp_path, "train", "val", "test")
    shutil.copy(root / "train/ant/0.png", root / "test/ant/other name.png")
    shutil.copy(root / "train/ant/1.png", root / "val/ant/copy.png")
    shutil.copy(root / "val/bee/1.png", root / "val/ant/2.png")
    said = str(load(root).description)
    assert "1 test image also among the training images (test/ant/other name.png)" in said
    assert "1 validation image also among the training images (val/ant/copy.png)" in said
    assert "1 image in more than one class" in said


def test_a_set_without_parts_says_so(tmp_path: Path) -> None:
    data = load(folder(tmp_path, {"ant": 5, "bee": 5}))
    assert str(data.description) == (
        "2 classes (ant 4, bee 4), 8 training and 2 test images of 6x4, RGB; a fifth of each class is set aside as "
        "test images"
    )


def arrays(**changes: object) -> dict[str, object]:
    draw = np.random.default_rng(0)
    made = {}
    for part, count in (("train", 6), ("val", 3), ("test", 3)):
        made |= {
            f"x_{part}": draw.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8),
            f"y_{part}": np.arange(count) % 3,
        }
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def test_npz_files_may_bring_a_validation_part(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(z=np.zeros(3)))
    data = load_data(f"npz:{tmp_path / 'a.npz'}")
    assert (len(data.train), len(data.validation or ()), len(data.test)) == (6, 3, 3)
    assert str(data.description) == (
        "3 classes (0 2, 1 2, 2 2), 6 training, 3 validation and 3 test images of 5x4, RGB; x_val is watched during "
        "training, x_test is run once at the end; arrays not used: z"
    )
    alone = load_data(f"npz:{tmp_path / 'a.npz'}", eval_split="val")
    assert alone.validation is None
    assert alone.test.images.tolist() == (data.validation or data.test).images.tolist()
    assert alone.fingerprint != data.fingerprint
    np.savez(tmp_path / "b.npz", **arrays(x_test=None, y_test=None))
    assert "the test images are those of x_val" in str(load_data(f"npz:{tmp_path / 'b.npz'}").description)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        (
            {f"y_{part}": np.arange(6 if part == "train" else 3) % 3 + 1 for part in ("train", "val", "test")},
            "subtract 1",
        ),
        ({"x_valid": np.zeros(3)}, "x_valid and x_val are for the same part"),
        ({"y_val": None}, "no array 'y_val'"),
        ({"x_val": np.zeros((3, 9, 9, 3), np.uint8)}, "images of x_train and x_val have different shapes"),
        ({"y_val": np.array([0, 1, 7])}, "y_val holds the label 7"),
        ({"x_train": np.array([None] * 6, dtype=object)}, "x_train holds Python objects"),
    ],
)
def test_npz_faults_say_what_to_do(tmp_path: Path, changes: dict[str, object], fragment: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays(**changes))
    with pytest.raises(DataError, match=fragment) as caught:
        load_data(f"npz:{tmp_path / 'a.npz'}")
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\x80\x04}\x94.", b"", b"PK\x03\x04 cut"])
def test_files_that_are_no_npz_do_not_advise_pickles(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged, or not a \.npz file") as caught:
        load_data(f"npz:{tmp_path / 'a.npz'}")
    assert "allow_pickle" not in str(caught.value)


def test_a_file_that_goes_away_is_one_line(tmp_path: Path) -> None:
    data = load(split(tmp_path, "train", "val"))
    assert isinstance(data.train, FolderImages)
    data.train.paths[0].unlink()
    with pytest.raises(DataError, match=r"train/ant/0.png cannot be read any more \(the file is gone\)"):
        data.train[0]
    data.train.paths[1].write_bytes(b"")
    with pytest.raises(DataError, match=r"train/ant/1.png cannot be read any more"):
        data.train[1]
