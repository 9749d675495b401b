"""The card of a saved model: what it says, that it lasts, and that a host's own recipe follows it."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from torch import nn

import convswap
from convswap.cli import main
from convswap.errors import StoreError, UsageError
from convswap.models import ModelCard
from convswap.models.card import card_of, put_card
from convswap.models.saved import card_in

FACTS: dict[str, Any] = {
    "mean": (0.4, 0.5, 0.6),
    "std": (0.1, 0.2, 0.3),
    "image_size": (32, 24),
    "resize": 37,
    "channels": 3,
    "class_names": ("ant", "bee"),
    "data": "imagefolder:photos",
    "data_description": "2 classes",
    "unit": "circle",
    "recipe": {"epochs": 3},
    "test_accuracy": 0.5,
    "versions": {"torch": "2"},
}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return convswap.create_model("cifar_resnet8", num_classes=2).eval()


def test_a_file_keeps_every_fact(model: nn.Module, tmp_path: Path) -> None:
    """Before: nothing but the weights and how to build the model."""
    path = convswap.save(model, tmp_path / "m.safetensors", card=FACTS)
    loaded = convswap.load(path)
    assert loaded.convswap_card == ModelCard(**FACTS) == card_in(path)
    assert {name: getattr(loaded.convswap_card, name) for name in FACTS} == FACTS
    assert convswap.load(convswap.save(loaded, tmp_path / "n.safetensors")).convswap_card == ModelCard(**FACTS)
    assert convswap.load(convswap.save(model, tmp_path / "o.safetensors")).convswap_card is None
    assert "convswap_card" not in model.__dict__, "save changes the file, not the model"


def test_copies_swaps_and_fusions_keep_the_card(model: nn.Module, tmp_path: Path) -> None:
    put_card(model, ModelCard(**FACTS))
    x = torch.randn(1, 3, 32, 32)
    swapped = convswap.swap(model, "circle", example_input=x)
    for each in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), swapped, convswap.fuse(swapped, x)):
        assert card_of(each) == ModelCard(**FACTS)


def test_a_model_that_is_itself_a_unit_keeps_card_and_history() -> None:
    """Before: fuse of such a model forgot its history, and the result could not be saved."""
    from convswap.surgery.history import history_of

    conv = nn.Conv2d(3, 4, 3, padding=1).eval()
    put_card(conv, ModelCard(**FACTS))
    x = torch.randn(1, 3, 8, 8)
    fused = convswap.fuse(convswap.swap(conv, "circle", where="all", example_input=x), x)
    assert card_of(fused) == ModelCard(**FACTS)
    assert [record["kind"] for record in history_of(fused)] == ["swap", "fuse"]


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18", "tests.models.test_card:own"])
def test_what_the_host_declares_is_corrected(name: str, tmp_path: Path) -> None:
    model = convswap.create_model(name, num_classes=2)
    before = dict(getattr(model, "pretrained_cfg", {}))
    loaded = convswap.load(convswap.save(model, tmp_path / "m.safetensors", card=FACTS), constructor=name)
    if name == "tests.models.test_card:own":
        assert not hasattr(loaded, "pretrained_cfg"), "a host that declares nothing is left alone"
        return
    if name == "torchvision:resnet18":
        assert (loaded.pretrained_cfg["mean"], loaded.pretrained_cfg["std"]) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
        assert before["mean"] == (0.485, 0.456, 0.406)
        return
    config = timm.data.resolve_model_data_config(loaded)
    assert config == {
        "input_size": (3, 32, 24),
        "interpolation": "bilinear",
        "mean": (0.4, 0.5, 0.6),
        "std": (0.1, 0.2, 0.3),
        "crop_pct": 32 / 37.5,
        "crop_mode": "center",
    }
    assert loaded.pretrained_cfg["num_classes"] == 2
    assert loaded.pretrained_cfg["label_names"] == ("ant", "bee")
    assert loaded.default_cfg is loaded.pretrained_cfg
    assert before["mean"] == (0.485, 0.456, 0.406)
    assert dict(model.pretrained_cfg) == before, "the model that was saved is as it was"


def own(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


@given(st.integers(1, 2048))
def test_the_crop_leads_timm_to_the_same_side(size: int) -> None:
    from convswap.data.folder import resized_side
    from convswap.models.card import _corrected

    card = ModelCard(image_size=(size, size), resize=resized_side(size))
    config = _corrected({}, card, 2)
    assert int(np.floor(size / config["crop_pct"])) == resized_side(size)


def test_timms_own_recipe_gives_the_accuracy_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: timm's recipe normalised with ImageNet's constants, which cost 32 points."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 20)):
        for label, name in enumerate(("dark", "bright")):
            Path("photos", split, name).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(128 + 12 * (2 * label - 1) + draw.normal(0, 20, (40, 47, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(Path("photos", split, name, f"{index}.png"))
    argv = ["train", "--model", "cifar_resnet8", "--data", "imagefolder:photos", "--image-size", "32", "--epochs", "6"]
    assert main([*argv, "--normalization", "0.7,0.5,0.3/0.1,0.2,0.4", "--out", "run", "--quiet"]) == 0
    result = json.loads(Path("run/result.json").read_text())
    model = convswap.load("run/model.safetensors")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    files = sorted(Path("photos/val").rglob("*.png"))
    images = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    labels = torch.tensor([model.convswap_card.class_names.index(file.parent.name) for file in files])
    with torch.no_grad():
        logits = model(images)
    assert (logits.argmax(1) == labels).float().mean().item() == pytest.approx(result["test_accuracy"])
    loss = nn.functional.cross_entropy(logits, labels).item()
    assert loss == pytest.approx(result["test_loss"], rel=0.05)  # bf16 in training
    wrong = timm.data.create_transform(input_size=(3, 32, 32), is_training=False)
    with torch.no_grad():
        other = nn.functional.cross_entropy(model(torch.stack([wrong(Image.open(f)) for f in files])), labels).item()
    assert abs(other - result["test_loss"]) > 0.05 * result["test_loss"], "the test can tell"


def test_a_run_fills_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--model", "cifar_resnet8", "--data", "digits", "--unit", "circle", "--epochs", "1", "--quiet"]
    assert main([*argv, "--out", "run"]) == 0
    card = convswap.load("run/model.safetensors").convswap_card
    result = json.loads(Path("run/result.json").read_text())
    data = convswap.data.load_data("digits")
    assert card == ModelCard(
        mean=data.mean,
        std=data.std,
        image_size=(8, 8),
        channels=1,
        class_names=tuple("0123456789"),
        data="digits",
        data_description=str(data.description),
        unit="circle",
        recipe=json.loads(Path("run/trial.json").read_text())["recipe"],
        test_accuracy=result["test_accuracy"],
        versions=result["versions"],
    )


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"colour": 1}, "unknown fact of a card 'colour'"),
        ({"mean": (0.5,)}, "give both or neither"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "one number per channel"),
        ({"mean": (0.5,), "std": (0.5,), "channels": 3}, r"channels=3"),
        ({"mean": (0.5,), "std": (0.0,)}, "std=0.0"),
        ({"mean": "0.5", "std": (0.5,)}, "mean='0.5'"),
        ({"image_size": (32,)}, r"image_size=\(32,\).*height, width"),
        ({"image_size": (32, 0)}, "image_size=0"),
        ({"resize": 1.5}, "resize=1.5"),
        ({"data": 3}, "data=3.*text"),
        ({"test_accuracy": 91.5}, "test_accuracy=91.5.*fraction"),
        ({"recipe": {"f": len}}, "cannot be written as JSON"),
    ],
)
def test_wrong_facts_are_refused(model: nn.Module, tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convswap.save(model, tmp_path / "m.safetensors", card=facts)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_card_is_named(model: nn.Module, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = convswap.save(model, tmp_path / "m.safetensors", card=FACTS)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["convswap"])
    header["card"]["std"] = [0, 0, 0]
    save_file(dict(model.state_dict()), path, metadata={"convswap": json.dumps(header)})
    with pytest.raises(StoreError, match=r"is damaged: card std=0"):
        convswap.load(path)
