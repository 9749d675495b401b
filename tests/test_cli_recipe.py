"""`--recipe`: a recipe by name on the command line, and what may be set beside it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from convswap.cli import main
from convswap.cli.grid import chosen_recipe
from convswap.data import load_data
from convswap.errors import UsageError
from convswap.models import create_model, load
from convswap.train import NAMED_RECIPES, Recipe, binary_recipe, default_recipe


def choose(name: str, settings: list[str] | None = None, **given: Any) -> Recipe:
    return chosen_recipe(load_data("digits"), name=name, trained=False, settings=settings, **given)


def test_names() -> None:
    assert choose("auto") == default_recipe(load_data("digits"))
    assert {name: choose(name) for name in NAMED_RECIPES} == {name: r.recipe() for name, r in NAMED_RECIPES.items()}
    assert choose("binary", epochs=3, batch_size=20) == replace(binary_recipe(), epochs=3, batch_size=20)
    assert choose("auto", freeze=None) == choose("auto")
    with pytest.raises(UsageError, match=r"unknown recipe 'cifar_papr'; did you mean 'cifar_paper'"):
        choose("cifar_papr")


def test_the_length_reaches_what_depends_on_it() -> None:
    for given in ({"epochs": 10}, {"settings": ["epochs=10"]}):
        assert choose("mobilenetv2", **given).final_learning_rate == pytest.approx(0.98**10)  # type: ignore[arg-type]


def test_any_field_can_be_set() -> None:
    settings = [
        "schedule=steps",
        "milestones=[0.5, 0.75]",
        "ema=0.999",
        "clip_norm=null",
        'freeze="layer1.*"',
        "compile=true",
    ]
    want = replace(
        default_recipe(load_data("digits")),
        schedule="steps",
        milestones=(0.5, 0.75),
        ema=0.999,
        freeze="layer1.*",
        compile=True,
    )
    assert choose("auto", settings) == want
    assert choose("auto", ["freeze=layer1.*"]) == choose("auto", freeze="layer1.*")
    assert choose("auto", compile=True) == choose("auto", ["compile=true"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["epoch=3"], "unknown recipe field 'epoch'; did you mean 'epochs'"),
        (["ema"], "--set 'ema' is not of the form FIELD=VALUE"),
        (["=3"], "not of the form FIELD=VALUE"),
        (["ema=0.9", "ema=0.99"], "--set gives ema twice, as 0.9 and 0.99"),
        (["learning_rate=1"], "--set learning_rate=1 and --learning-rate 0.5 say the same"),
        (["epochs=many"], "epochs='many' is not allowed"),
        (["ema=NaN"], "ema='NaN' is not allowed"),
        (["milestones=0.5"], "milestones=0.5 is not allowed"),
        (["nesterov=yes"], "nesterov='yes' is not allowed; it must be True or False"),
    ],
)
def test_a_setting_that_is_wrong_is_one_line(settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        choose("auto", settings, learning_rate=0.5)
    assert "\n" not in str(caught.value)


def test_the_list_and_the_card_have_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    for name, found in NAMED_RECIPES.items():
        assert name in listed
        assert main(["recipes", name]) == 0
        text = " ".join(capsys.readouterr().out.split())
        for field, _, source in found.rows():
            assert f" {field} " in text
            assert source in text
        assert all(line in text for line in found.left_out)
    assert main(["recipes", "cifar_paper", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert Recipe.from_dict(row["recipe"]) == NAMED_RECIPES["cifar_paper"].recipe()
    assert row["sources"].keys() >= {"epochs", "learning_rate", "milestones"}


def test_a_frozen_training_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", "--model", "cifar_resnet8", "--data", "digits", "--epochs", "1", "--device", "cpu", "-q"]
    assert main([*common, "--freeze", "layer[12].*", "--set", "ema=0.9", "--out", str(tmp_path / "run")]) == 0
    trial = json.loads((tmp_path / "run" / "trial.json").read_text())
    assert (trial["recipe"]["freeze"], trial["recipe"]["ema"]) == ("layer[12].*", 0.9)
    saved = load(tmp_path / "run" / "model.safetensors")
    assert saved.convswap_card.recipe == trial["recipe"]
    torch.manual_seed(0)
    fresh = create_model("cifar_resnet8", num_classes=10, in_channels=1).state_dict()
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tensor, fresh[name]) == name.startswith(("layer1", "layer2")), name
    capsys.readouterr()
    for wrong, message in (
        (["--freeze", "layer9.*"], "matches none of the model's 15 layers"),
        (["--set", "patience=2"], "patience=2 needs a validation part"),
        (["--set", "precision=fp16"], "precision='fp16' needs a CUDA GPU"),
        (["--set", "accumulate=3"], "accumulate=3 does not divide batch_size=64"),
    ):
        assert main([*common, *wrong, "--out", str(tmp_path / "other")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
        assert not (tmp_path / "other").exists()


def test_a_binary_training_from_the_command_line(tmp_path) -> None:
    command = "train --model cifar_resnet8 --unit quantized --data digits --recipe binary --epochs 1 --device cpu -q"
    assert main([*command.split(), "--out", str(tmp_path / "run")]) == 0
    trial = json.loads((tmp_path / "run" / "trial.json").read_text())
    assert trial["recipe"]["optimizer"] == "adam"
    assert trial["recipe"]["loss"] == "squared_hinge"
