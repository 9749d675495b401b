"""A trial with a teacher: its id, what it refuses, and the commands that make one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import convswap
from convswap.cli import main
from convswap.cli.teacher import described_teacher, with_teacher
from convswap.data import load_data
from convswap.errors import DataError, UsageError
from convswap.lab import Trial, run_trial
from convswap.lab.teacher import build_teacher, describe_teacher
from convswap.train.recipes import digits_recipe


@pytest.fixture(scope="module")
def data():
    return load_data("digits")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    model = convswap.create_model("cifar_resnet8", num_classes=10, in_channels=1)
    convswap.save(model, tmp_path / "teacher.safetensors")
    torch.save(model.state_dict(), tmp_path / "teacher.pth")
    return tmp_path / "teacher.safetensors"


def trial(data, teacher=None, **changes) -> Trial:
    recipe = replace(digits_recipe(1), regularize=("logit_distillation",) if teacher else ())
    described = {"model": "cifar_resnet8", "data": "digits", "data_fingerprint": data.fingerprint, "seed": 0}
    return Trial(**described, recipe=recipe.as_dict(), teacher=teacher, **changes)


def test_the_id_knows_the_teacher_and_not_its_folder(data, saved: Path) -> None:
    plain, taught = trial(data), trial(data, describe_teacher("saved", file=saved))
    assert plain.id != taught.id
    moved = saved.rename(saved.with_name("moved.safetensors"))
    assert trial(data, describe_teacher("saved", file=moved)).id == taught.id
    assert Trial.from_json(taught.to_json()) == taught
    assert "teacher" in taught.differences(plain)
    assert "teacher" in plain.differences(taught)


def test_a_description_without_teacher_is_as_before(data) -> None:
    plain = trial(data)
    assert "teacher" not in json.loads(plain.to_json())
    assert Trial.from_json(plain.to_json()).id == plain.id


@pytest.mark.parametrize("kind", ["saved", "weights"])
def test_the_same_teacher_from_both_files(data, saved: Path, kind: str) -> None:
    described = {
        "saved": describe_teacher("saved", file=saved),
        "weights": describe_teacher("weights", file=saved.with_suffix(".pth"), model="cifar_resnet8"),
    }[kind]
    teacher = build_teacher(trial(data, described), data)
    x = torch.randn(2, 1, 8, 8)
    assert not teacher.training
    assert torch.equal(teacher(x), convswap.load(saved).eval()(x))


def test_an_edited_teacher_is_refused(data, saved: Path) -> None:
    described = describe_teacher("saved", file=saved)
    convswap.save(convswap.create_model("cifar_resnet8", num_classes=10, in_channels=1), saved)
    with pytest.raises(DataError, match="changed since the trial was described"):
        build_teacher(trial(data, described), data)


def test_weights_of_other_classes_are_refused(data, saved: Path) -> None:
    file = saved.with_suffix(".pth")
    torch.save(convswap.create_model("cifar_resnet8", num_classes=7, in_channels=1).state_dict(), file)
    described = describe_teacher("weights", file=file, model="cifar_resnet8")
    with pytest.raises(UsageError, match="have other classes than the 10 of 'digits'"):
        build_teacher(trial(data, described), data)


def test_published_weights_of_other_classes_are_refused_before_any_download(data) -> None:
    with pytest.raises(UsageError, match="'resnet18' are for 1000 classes, but 'digits' has 10"):
        build_teacher(trial(data, describe_teacher("published", model="resnet18")), data)


def test_a_run_with_a_teacher_is_another_run(data, saved: Path, tmp_path: Path) -> None:
    taught = run_trial(trial(data, describe_teacher("saved", file=saved)), tmp_path / "a", data=data, progress=False)
    plain = run_trial(trial(data), tmp_path / "b", data=data, progress=False)
    assert taught["history"][0]["train_loss"] > plain["history"][0]["train_loss"], "the distance is added"
    assert (
        convswap.load(tmp_path / "a" / "model.safetensors").state_dict().keys()
        == convswap.load(saved).state_dict().keys()
    )


@pytest.mark.parametrize(
    ("text", "kind", "model"),
    [
        ("{folder}/teacher.safetensors", "saved", None),
        ("cifar_resnet8:{folder}/teacher.pth", "weights", "cifar_resnet8"),
        ("resnet18", "published", "resnet18"),
        ("torchvision:resnet18", "published", "torchvision:resnet18"),
    ],
)
def test_how_a_teacher_is_named(saved: Path, text: str, kind: str, model: str | None) -> None:
    described = described_teacher(text.format(folder=saved.parent))
    assert (described["kind"], described["model"]) == (kind, model)
    assert (described["sha256"] is None) == (kind == "published")


@pytest.mark.parametrize(
    ("text", "message"),
    [("cifar_resnet8:nowhere.pth", "there is no file 'nowhere.pth'"), ("runs/nowhere", "does not exist")],
)
def test_a_teacher_that_is_not_there(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        described_teacher(text)


def test_how_to_listen() -> None:
    assert with_teacher("", None, "") == ""
    assert with_teacher("mixup", None, "") == "mixup"
    assert with_teacher("", "run", "") == "logit_distillation:mse"
    assert with_teacher("mixup", "run", "kl:temperature=2") == "mixup,logit_distillation:kl:temperature=2"
    assert with_teacher("logit_distillation:kl", "run", "") == "logit_distillation:kl"
    with pytest.raises(UsageError, match="nobody to listen to"):
        with_teacher("", None, "mse")
    with pytest.raises(UsageError, match="say the same"):
        with_teacher("logit_distillation", "run", "mse")


def test_the_command(saved: Path, tmp_path: Path) -> None:
    arguments = ["train", "--model", "cifar_resnet8", "--data", "digits", "--epochs", "1", "--quiet"]
    arguments += ["--teacher", str(saved), "--distill", "kl:end=1", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    recipe = json.loads((tmp_path / "run" / "trial.json").read_text())["recipe"]
    assert recipe["regularize"] == ["logit_distillation:distance=kl:end=1"]


def test_a_teacher_of_other_classes_is_refused_before_the_training(tmp_path: Path, capsys) -> None:
    convswap.save(convswap.create_model("cifar_resnet8", num_classes=7, in_channels=1), tmp_path / "t.safetensors")
    arguments = ["compare", "cifar_resnet8", "--epochs", "1", "--teacher", str(tmp_path / "t.safetensors")]
    assert main([*arguments, "--lab", str(tmp_path / "lab")]) == 2
    assert "the teacher has 7 outputs" in capsys.readouterr().err
    assert not (tmp_path / "lab").exists()
