"""Trainings that go wrong: diverged losses, batches of one, files that vanish, and errors of the model's own code."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from convswap.data import Data, load_data
from convswap.errors import DataError, TrainingError, UsageError
from convswap.train import digits_recipe, evaluate, fit
from convswap.train.faults import TIMES_CHANCE, divergence


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits")


class Pooled(nn.Module):
    """A BatchNorm on one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x).mean((2, 3), keepdim=True)).flatten(1))


class Breaks(Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("head")


@given(st.floats(0, 1e30), st.floats(0, 1e30), st.integers(1, 1000))
def test_a_loss_far_above_guessing_is_a_warning(train: float, test: float, classes: int) -> None:
    limit = TIMES_CHANCE * math.log(max(classes, 2))
    found = divergence({"train_loss": train, "test_loss": test}, classes)
    assert bool(found) == (max(train, test) > limit)
    assert all("--learning-rate" in line and "\n" not in line for line in found)


def test_a_diverged_training_is_no_quiet_result(data: Data) -> None:
    """Before: a loss of 8.6e28 after an epoch passed as a result."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    recipe = replace(digits_recipe(1), learning_rate=100.0, warmup=0.0)
    found = fit(model, data, recipe, seed=0, progress=False, device="cpu")
    assert 100 < found.history[-1]["train_loss"] < math.inf
    (warning,) = found.warnings
    assert "diverged" in warning
    assert fit(Pooled(), data, digits_recipe(1), seed=0, progress=False, device="cpu").warnings == ()


def test_a_batch_of_one_image_is_refused_with_the_reason(data: Data) -> None:
    """Before: a raw ValueError of torch."""
    with pytest.raises(TrainingError, match=r"a batch of one image .*BatchNorm.*batch_size \(--batch-size\)") as caught:
        fit(Pooled(), data, replace(digits_recipe(1), batch_size=1), seed=0, progress=False, device="cpu")
    assert "\n" not in str(caught.value)
    without = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    few = replace(data, train=replace(data.train, images=data.train.images[:8], labels=data.train.labels[:8]))
    fit(without, few, replace(digits_recipe(1), batch_size=1), seed=0, progress=False, device="cpu")


def test_an_error_of_the_model_names_the_users_line(data: Data) -> None:
    with pytest.raises(
        TrainingError, match=r"the model fails with KeyError: 'head' \(test_faults.py, line \d+, in forw"
    ):
        fit(Breaks(), data, digits_recipe(1), seed=0, progress=False, device="cpu")


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_seeds_beyond_64_bits_are_refused(seed: int, data: Data) -> None:
    """Before: OverflowError."""
    with pytest.raises(UsageError, match=f"seed={seed} is not allowed"):
        fit(Pooled(), data, digits_recipe(1), seed=seed, progress=False, device="cpu")


def test_the_largest_seed_trains(data: Data) -> None:
    fit(Pooled(), data, digits_recipe(1), seed=2**63 - 1, progress=False, device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Data:
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(4):
                pixels = draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.png")
    return load_data(f"imagefolder:{tmp_path}", image_size=16)


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_file_that_vanishes_is_named_in_one_line(split: str, photos: Data, tmp_path: Path) -> None:
    """Before: the whole text of a data worker's traceback."""
    gone = tmp_path / split / "a" / "2.png"
    gone.unlink()
    with pytest.raises(DataError, match="cannot be read any more") as caught:
        fit(small(), photos, replace(digits_recipe(1), batch_size=4), seed=0, progress=False, device="cpu")
    assert str(gone) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    if split == "val":
        with pytest.raises(DataError, match="cannot be read any more"):
            evaluate(small(), photos, device="cpu")


def test_an_error_for_a_file_crosses_processes(photos: Data, tmp_path: Path) -> None:
    (tmp_path / "val" / "b" / "0.png").write_bytes(b"junk")
    with pytest.raises(DataError) as caught:
        [photos.test[index] for index in range(len(photos.test))]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
