"""`--recipe`: a recipe by name on the command line, and what may be set beside it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from convswap.cli.grid import chosen_recipe
from convswap.data import load_data
from convswap.errors import UsageError
from convswap.train import NAMED_RECIPES, binary_recipe, default_recipe


def choose(name, **given):
    return chosen_recipe(
        load_data("digits"),
        name=name,
        trained=False,
        **{"epochs": None, "batch_size": None, "learning_rate": None, **given},
    )


def test_names() -> None:
    assert choose("auto") == default_recipe(load_data("digits"))
    assert {name: choose(name) for name in NAMED_RECIPES} == {name: build() for name, build in NAMED_RECIPES.items()}
    assert choose("binary", epochs=3, batch_size=20) == replace(binary_recipe(), epochs=3, batch_size=20)
    with pytest.raises(UsageError, match=r"--recipe='sgd'.*'auto', 'binary', 'all_cnn'"):
        choose("sgd")


def test_a_binary_training_from_the_command_line(tmp_path) -> None:
    from convswap.cli import main

    command = "train --model cifar_resnet8 --unit quantized --data digits --recipe binary --epochs 1 --device cpu -q"
    assert main([*command.split(), "--out", str(tmp_path / "run")]) == 0
    trial = json.loads((tmp_path / "run" / "trial.json").read_text())
    assert trial["recipe"]["optimizer"] == "adam"
    assert trial["recipe"]["loss"] == "squared_hinge"
