"""A validation part out of the training images: fixed, even over the classes, and in the trial's id."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convswap.cli import main
from convswap.data import load_data
from convswap.errors import DataError, UsageError


def test_each_class_gives_the_same_share() -> None:
    whole, parts = load_data("digits"), load_data("digits", hold_out=0.1)
    assert parts.validation is not None
    assert len(parts.train) + len(parts.validation) == len(whole.train)
    for label in range(10):
        total, held = (int((part.labels == label).sum()) for part in (whole.train, parts.validation))
        assert held == round(total / 10)
    assert torch.equal(parts.test.images, whole.test.images)
    assert (parts.mean, parts.std) == (whole.mean, whole.std)
    assert parts.options == {"hold_out": 0.1}
    assert "10% of the training images held out for validation" in str(parts.description)


def test_no_image_is_in_both_parts_and_the_split_is_fixed() -> None:
    first, again = load_data("digits", hold_out=0.2), load_data("digits", hold_out=0.2)
    assert torch.equal(first.validation.images, again.validation.images)
    assert first.fingerprint == again.fingerprint
    seen = {part: {bytes(image.numpy()) for image in getattr(first, part).images} for part in ("train", "validation")}
    assert len(seen["train"] & seen["validation"]) <= 2, "equal digits may occur, the same one may not"
    prints = {load_data("digits", hold_out=share).fingerprint for share in (0.0, 0.1, 0.2)}
    assert len(prints) == 3


def test_a_folder(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 3)):
        for name in ("ant", "bee"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 255, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    data = load_data(f"imagefolder:{tmp_path}", image_size=8, hold_out=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 4, 6)
    assert data.train.train
    assert not data.validation.train, "validation images are cropped in the centre"
    assert not set(data.train.paths) & set(data.validation.paths)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    again = load_data(f"imagefolder:{moved}", image_size=8, hold_out=0.2)
    assert [path.name for path in again.validation.paths] == [path.name for path in data.validation.paths]
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("share", [-0.1, 0.6, float("nan"), "a tenth", True])
def test_bad_shares(share: object) -> None:
    with pytest.raises(UsageError, match="hold_out="):
        load_data("digits", hold_out=share)


def arrays(folder: Path, **more: np.ndarray) -> str:
    images, labels = np.zeros((6, 8, 8), np.uint8), np.array([0, 0, 0, 0, 0, 1])
    np.savez(folder / "d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels, **more)
    return f"npz:{folder / 'd.npz'}"


def test_a_class_of_one_image_and_a_part_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class '1' has 1 image; a training and a validation part need 2"):
        load_data(arrays(tmp_path), hold_out=0.2)
    own = {"x_val": np.zeros((2, 8, 8), np.uint8), "y_val": np.array([0, 1])}
    with pytest.raises(UsageError, match="it has a validation part of its own"):
        load_data(arrays(tmp_path, **own), hold_out=0.2)


def test_early_stopping_on_data_without_a_validation_part(tmp_path: Path) -> None:
    arguments = ["train", "--model", "cifar_resnet8", "--data", "digits", "--epochs", "4", "--quiet"]
    arguments += ["--set", "patience=1", "--set", "learning_rate=2.0", "--out", str(tmp_path / "run")]
    assert main(arguments) == 2, "nothing to watch"
    assert main([*arguments, "--hold-out", "0.1"]) == 0
    described = json.loads((tmp_path / "run" / "trial.json").read_text())
    assert described["data_options"] == {"hold_out": 0.1}
    history = json.loads((tmp_path / "run" / "result.json").read_text())["history"]
    assert all("validation_accuracy" in row for row in history)
    assert [("test_accuracy" in row) for row in history] == [False] * (len(history) - 1) + [True]
    assert main(["fuse", str(tmp_path / "run")]) == 0, "the run's data are found again"
