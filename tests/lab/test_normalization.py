"""Which mean and standard deviation a trial normalises with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convswap.data import load_data
from convswap.errors import DataError, StoreError, UsageError
from convswap.lab import Trial, run_trial
from convswap.lab.normalization import choose_normalization
from convswap.lab.run import trial_data
from convswap.models import create_model
from convswap.train import digits_recipe


def declaring(channels: int) -> nn.Module:
    model = nn.Identity()
    model.__dict__["pretrained_cfg"] = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    return model


GRAY = {"mean": [0.5], "std": [0.25]}


@pytest.mark.parametrize(
    ("choice", "channels", "trained", "expected"),
    [
        ("auto", 1, True, GRAY),
        ("auto", 1, False, None),
        ("auto", 3, True, None),  # declared for other channels
        ("data", 1, True, None),
        ("model", 1, False, GRAY),
        ("0.1/0.2", 1, False, {"mean": [0.1], "std": [0.2]}),
    ],
)
def test_choices(choice: str, channels: int, trained: bool, expected: dict[str, Any] | None) -> None:
    assert choose_normalization(choice, declaring(channels), load_data("digits"), trained=trained) == expected


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18"])
def test_a_network_by_name_declares_the_constants_of_its_published_weights(name: str) -> None:
    """Trials are described by a network without weights. torchvision's declared nothing, so the data's were taken."""
    with torch.device("meta"):
        model = create_model(name, num_classes=10)
    colours = replace(load_data("digits"), channels=3)
    found = choose_normalization("auto", model, colours, trained=True)
    assert found == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize("choice", ["imagenet", "0.1", "0.1/0", "0.1,0.2/0.1,0.2", "a/b", "0.1/0.2/0.3", "", "model"])
def test_other_choices_are_errors(choice: str) -> None:
    with pytest.raises(UsageError, match="normalization="):
        choose_normalization(choice, nn.Identity(), load_data("digits"), trained=True)


def describe(**changes: Any) -> Trial:
    data = load_data("digits")
    recipe = digits_recipe(epochs=1).as_dict()
    values = {"model": "cifar_resnet8", "data": "digits", "data_fingerprint": data.fingerprint, "recipe": recipe}
    return Trial(**{**values, "seed": 0, **changes})


def test_it_belongs_to_the_trial() -> None:
    plain, other = describe(), describe(normalization=GRAY)
    assert plain.id != other.id
    assert Trial.from_json(other.to_json()) == other
    assert trial_data(other).mean == (0.5,)
    assert trial_data(plain).mean == load_data("digits").mean
    with pytest.raises(UsageError, match="exactly the keys"):
        describe(normalization={"mean": [0.5]})
    with pytest.raises(StoreError, match="normalization"):
        Trial.from_json(other.to_json().replace('"mean"', '"means"'))


def test_it_reaches_the_training(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    losses = [run_trial(describe(normalization=n), tmp_path / str(i))["test_loss"] for i, n in enumerate((None, GRAY))]
    assert losses[0] != losses[1]
    with pytest.raises(DataError, match="does not fit data of 1 channels"):
        run_trial(describe(normalization={"mean": [0.5] * 3, "std": [0.5] * 3}), tmp_path / "wrong")


def test_given_data_keep_their_images() -> None:
    data = load_data("digits")
    found = trial_data(describe(normalization=GRAY), data)
    assert (found.mean, found.std) == ((0.5,), (0.25,))
    assert found.train is data.train
