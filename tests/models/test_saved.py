"""Whole models on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import convswap
from convswap.cli.saved import load_saved
from convswap.errors import StoreError, UsageError
from convswap.models.saved import ConstructorNeededError
from convswap.surgery.history import history_of


def image() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def small(num_classes: int = 4, in_channels: int = 3) -> nn.Module:
    """A user's own network with a shared convolution."""
    conv = nn.Conv2d(in_channels, in_channels, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(in_channels), conv, nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return convswap.create_model("cifar_resnet8", num_classes=5).eval()


def test_plain_swapped_and_fused_come_back_equal(model: nn.Module, tmp_path: Path) -> None:
    x = image()
    swapped = convswap.swap(model, "circle", radius="learnable")
    mixed = convswap.swap(swapped, "conv", where="layer3.*")
    for each in (model, swapped, mixed, convswap.fuse(mixed, x), model.to(memory_format=torch.channels_last)):
        path = convswap.save(each, tmp_path / "model.safetensors")
        loaded = convswap.load(path)
        assert [type(m) for m in loaded.modules()] == [type(m) for m in each.modules()]
        assert torch.equal(loaded(x), each.to(memory_format=torch.contiguous_format)(x))
        assert not loaded.training
    assert convswap.load(convswap.save(loaded, tmp_path / "again.safetensors"))(x).equal(loaded(x))


def test_dtype_is_kept(model: nn.Module, tmp_path: Path) -> None:
    loaded = convswap.load(convswap.save(model.bfloat16(), tmp_path / "m.safetensors"))
    assert loaded.conv1.weight.dtype == torch.bfloat16


def test_own_networks_are_only_built_by_the_callers_word(tmp_path: Path) -> None:
    name = "tests.models.test_saved:small"
    net = small().eval()
    with pytest.raises(UsageError, match="how this Sequential is built is unknown"):
        convswap.save(net, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="lacks 'num_classes'"):
        convswap.save(net, tmp_path / "m.safetensors", constructor=name)
    swapped = convswap.swap(net, "circle", where="all")
    path = convswap.save(swapped, tmp_path / "m.safetensors", constructor=name, arguments={"num_classes": 4})
    with pytest.raises(ConstructorNeededError, match=r"pass constructor='tests\.models\.test_saved:small'") as caught:
        convswap.load(path)
    assert (caught.value.path, caught.value.function) == (path, name)
    with pytest.raises(UsageError, match=r"built by your function .*; give --model tests\.models\.test_saved:small"):
        load_saved(path, None)
    with pytest.raises(UsageError, match=r"give --model tests\.models\.test_saved:small"):
        load_saved(path, "another.module:function")
    assert load_saved(path, name)(image()).equal(swapped(image()))
    loaded = convswap.load(path, constructor=small)
    assert loaded[0] is loaded[2]
    assert loaded(image()).equal(swapped(image()))


def test_a_file_cannot_choose_the_code_that_runs(model: nn.Module, tmp_path: Path) -> None:
    path = convswap.save(model, tmp_path / "m.safetensors")
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["convswap"])
    marker = tmp_path / "pwned"
    header["constructor"] = {"model": "os:system", "arguments": {"num_classes": f"touch {marker}"}}
    save_file(dict(model.state_dict()), path, metadata={"convswap": json.dumps(header)})
    with pytest.raises(UsageError, match="built by your function 'os:system'"):
        convswap.load(path)
    assert not marker.exists()


def test_damaged_and_foreign_files(model: nn.Module, tmp_path: Path) -> None:
    path = convswap.save(model, tmp_path / "m.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError, match="damaged"):
        convswap.load(path)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(1)}, foreign)
    with pytest.raises(StoreError, match=r"not written by convswap\.save"):
        convswap.load(foreign)
    with pytest.raises(UsageError, match="no such file"):
        convswap.load(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="is a folder"):
        convswap.load(tmp_path)


def test_a_model_edited_by_hand_is_not_saved_as_something_else(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    part = convswap.create_model("cifar_resnet8", num_classes=5)
    part.layer1 = convswap.swap(part.layer1, "circle", where="3x3")  # the whole model knows nothing of it
    with pytest.raises(UsageError, match=r"layer1\.0\.conv1 is CircleConv2d.*swap the whole model"):
        convswap.save(part, path)
    model.linear = nn.Linear(64, 7)
    with pytest.raises(UsageError, match=r"linear is Linear.*out_features=7"):
        convswap.save(model, path)
    assert not path.exists()


def test_every_tensor_keeps_its_own_precision(model: nn.Module, tmp_path: Path) -> None:
    model.layer1.half()
    model.bn1.running_var.fill_(1e6)
    loaded = convswap.load(convswap.save(convswap.swap(model, "circle", where="layer1.*"), tmp_path / "m.safetensors"))
    assert loaded.layer1[0].conv1.weight.dtype == torch.float16
    assert loaded.bn1.running_var.dtype == torch.float32
    assert loaded.bn1.running_var.max() == 1e6


def only_classes(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, num_classes, 3))


def test_the_simplest_function_of_ones_own(tmp_path: Path) -> None:
    net = convswap.create_model("tests.models.test_saved:only_classes", num_classes=4)
    loaded = convswap.load(convswap.save(net, tmp_path / "m.safetensors"), constructor=only_classes)
    assert loaded(image()).equal(net(image()))


def test_full_disk_leaves_the_old_file(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = convswap.save(model, tmp_path / "m.safetensors")
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("convswap.files.os.replace", full)
    with pytest.raises(StoreError, match="the disk is full"):
        convswap.save(model, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _exchangeable() -> list[tuple[str, dict[str, object]]]:
    """Every unit with each of its variants that builds in the place of a convolution."""
    pairs = []
    for name in convswap.list_units():
        spec = convswap.get_unit(name)
        for options in spec.variants if spec.kind != "block" else ():
            if spec.cls.supports(nn.Conv2d(16, 16, 3, padding=1), **options) is None:
                pairs.append((name, dict(options)))
    return pairs


@pytest.mark.parametrize(("unit", "options"), _exchangeable(), ids=lambda value: str(value))
def test_a_unit_exchanged_by_hand_for_another_option_is_refused(
    model: nn.Module, tmp_path: Path, unit: str, options: dict[str, object]
) -> None:
    """Some of these loaded as another function: the state fitted, and nothing told the options apart."""
    torch.manual_seed(0)
    swapped = convswap.swap(model, unit, where="layer1.0.conv1", example_input=image())
    other = convswap.swap(model, unit, where="layer1.0.conv1", example_input=image(), **options)
    convswap.save(swapped, tmp_path / "m.safetensors")
    if other.layer1[0].conv1.state_dict().keys() != swapped.layer1[0].conv1.state_dict().keys():
        return  # such a state does not fit, and a load says so
    if all(getattr(swapped.layer1[0].conv1, name, None) == value for name, value in options.items()):
        return  # the place asks for these options anyway
    swapped.layer1[0].conv1 = other.layer1[0].conv1
    with pytest.raises(UsageError, match=r"layer1\.0\.conv1.* is .* with its recorded surgery has"):
        convswap.save(swapped, tmp_path / "m.safetensors")


def test_a_setting_that_a_unit_does_not_print_is_compared(model: nn.Module, tmp_path: Path) -> None:
    swapped = convswap.swap(model, "ic", where="layer1.0.conv1")
    swapped.layer1[0].conv1.temperature = 0.05
    with pytest.raises(UsageError, match=r"layer1\.0\.conv1 is IC.*temperature=0.05"):
        convswap.save(swapped, tmp_path / "m.safetensors")


def test_frozen_parameters_come_back_frozen(model: nn.Module, tmp_path: Path) -> None:
    swapped = convswap.swap(model, "circle", example_input=image())
    swapped.layer1.requires_grad_(False)
    for each in (swapped, convswap.fuse(swapped.eval(), image())):
        frozen = [name for name, p in each.named_parameters() if not p.requires_grad]
        assert frozen
        loaded = convswap.load(convswap.save(each, tmp_path / "m.safetensors"))
        assert [name for name, p in loaded.named_parameters() if not p.requires_grad] == frozen


def test_what_was_loaded_remembers_its_surgery(model: nn.Module, tmp_path: Path) -> None:
    fused = convswap.fuse(convswap.swap(model, "circle"), image())
    loaded = convswap.load(convswap.save(fused, tmp_path / "a.safetensors"))
    assert history_of(loaded) == history_of(fused)
    assert [record["kind"] for record in history_of(loaded)] == ["swap", "fuse"]
    again = convswap.load(convswap.save(loaded, tmp_path / "b.safetensors"))
    assert torch.equal(again(image()), fused(image()))
