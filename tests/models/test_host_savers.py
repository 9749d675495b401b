"""Swapped models through the savers of their hosts: right, or refused; nothing comes back as another function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_model, save_model
from timm.models import load_checkpoint
from timm.utils import ModelEmaV3
from torch import Tensor, nn

import convswap
from convswap.errors import StoreError, UsageError
from convswap.models import load_weights


class HubNet(nn.Module, PyTorchModelHubMixin):
    """A host that saves itself, with units or without."""

    def __init__(self, unit: str = "", radius: float = 1.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))
        if unit:
            self.body = convswap.swap(self.body, unit, where="all", **({"radius": radius} if unit == "circle" else {}))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def trained(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for tensor in model.parameters():
        tensor.data.normal_()
    return model.eval()


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def close(model: nn.Module, other: nn.Module) -> None:
    x = image()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), other.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unit", ["circle", "ic", "circle_square", "quantized"])
def test_save_pretrained_and_from_pretrained(tmp_path: Path, unit: str) -> None:
    model = trained(HubNet(unit))
    model.save_pretrained(tmp_path, config={"unit": unit})
    close(HubNet.from_pretrained(tmp_path, strict=True), model)
    close(HubNet.from_pretrained(tmp_path), model)


def test_from_pretrained_into_another_unit_and_into_the_plain_host(tmp_path: Path) -> None:
    model = trained(HubNet("circle"))
    model.save_pretrained(tmp_path, config={})
    for other in ("ic", "circle"):
        with pytest.raises(RuntimeError):
            HubNet.from_pretrained(tmp_path, unit=other, radius=0.7, strict=True)
        with pytest.warns(UserWarning, match="the state given is of circle"):
            HubNet.from_pretrained(tmp_path, unit=other, radius=0.7)
    with pytest.raises(RuntimeError, match="_extra_state"):
        HubNet.from_pretrained(tmp_path, strict=True)


def test_from_pretrained_of_the_plain_host_into_units(tmp_path: Path) -> None:
    plain = trained(HubNet())
    plain.save_pretrained(tmp_path, config={})
    close(HubNet.from_pretrained(tmp_path, unit="circle", strict=True), plain)
    with pytest.warns(UserWarning, match="load it before the swap"):
        HubNet.from_pretrained(tmp_path, unit="quantized")
    with pytest.raises(RuntimeError):
        HubNet.from_pretrained(tmp_path, unit="quantized", strict=True)


def test_safetensors_save_model_and_load_model(tmp_path: Path) -> None:
    model = trained(HubNet("circle"))
    save_model(model, str(tmp_path / "m.safetensors"))
    other = HubNet("circle")
    assert load_model(other, tmp_path / "m.safetensors") == (set(), [])
    close(other, model)
    with pytest.raises(RuntimeError, match="_extra_state"):
        load_model(HubNet(), tmp_path / "m.safetensors")


def resnet() -> nn.Module:
    return convswap.create_model("cifar_resnet8", num_classes=5)


def circled(**options: Any) -> nn.Module:
    return convswap.swap(resnet(), "circle", where="spatial & !first", **options)


@pytest.mark.parametrize("key", ["state_dict", "state_dict_ema"])
def test_timms_load_checkpoint(tmp_path: Path, key: str) -> None:
    model, file = trained(circled()), tmp_path / "c.pth"
    ema = ModelEmaV3(model, decay=0.5)
    for _ in range(3):
        ema.update(model)
    torch.save({"state_dict": model.state_dict(), "state_dict_ema": ema.module.state_dict()}, file)
    use = {"use_ema": key == "state_dict_ema", "weights_only": True}
    again = circled()
    load_checkpoint(again, str(file), **use)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*_extra_state"):
        load_checkpoint(resnet(), str(file), **use)
    assert "layer1.0.conv1._extra_state" in load_checkpoint(resnet(), str(file), strict=False, **use).unexpected_keys
    with pytest.raises(RuntimeError, match=r"is of circle\(radius=1\), but this is circle\(radius=0\.7\)"):
        load_checkpoint(circled(radius=0.7), str(file), **use)
    with pytest.warns(UserWarning, match="is of circle"):
        kept = load_checkpoint(circled(radius=0.7), str(file), strict=False, **use)
    assert "layer1.0.conv1.weight" in kept.missing_keys


def test_a_plain_checkpoint_by_timms_load_checkpoint(tmp_path: Path) -> None:
    plain, file = trained(resnet()), tmp_path / "c.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in plain.state_dict().items()}}, file)
    model = circled()
    load_checkpoint(model, str(file), weights_only=True)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.eval()(x), plain(x), rtol=1e-3, atol=1e-3)


def test_weights_of_a_swapped_model_are_no_start_for_a_plain_one(tmp_path: Path) -> None:
    """Such a file loaded by name without a word before."""
    torch.save(circled().state_dict(), tmp_path / "w.pth")
    with pytest.raises(StoreError, match=r"holds a circle unit at layer1\.0\.conv1, whose weights mean another"):
        convswap.create_model("cifar_resnet8", num_classes=5, weights=tmp_path / "w.pth")
    again = circled()
    load_weights(again, tmp_path / "w.pth")
    assert torch.equal(again.layer1[0].conv1.weight, torch.load(tmp_path / "w.pth")["layer1.0.conv1.weight"])
    with pytest.raises(StoreError, match=r"layer1\.0\.conv1: the state given is of circle\(radius=1\)"):
        load_weights(circled(radius=0.7), tmp_path / "w.pth")


def test_plain_weights_are_no_file_for_a_swapped_model(tmp_path: Path) -> None:
    torch.save(resnet().state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"is swapped already; load them before the swap, or with convswap.load_plain"):
        load_weights(circled(), tmp_path / "w.pth")


def test_published_weights_of_a_network_of_units_load_by_name(tmp_path: Path) -> None:
    model = convswap.create_model("binarynet_cifar10", num_classes=10)
    published = {name: value + 1 for name, value in model.state_dict().items() if not name.endswith("_extra_state")}
    torch.save(published, tmp_path / "w.pth")
    again = convswap.create_model("binarynet_cifar10", num_classes=10, weights=tmp_path / "w.pth")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in published.items())
