"""Stems: the first convolution with its BatchNorm, ReLU and max-pool, found by data flow and replaced as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import convswap
from convswap.errors import UsageError
from convswap.surgery.inputs import Inputs
from convswap.surgery.stems import find_stem
from convswap.units import BlockUnit, register_unit
from convswap.units.contract import registry


class Pooled(BlockUnit):
    """A stem of the tests: one strided convolution with the host's rounding."""

    def setup(self) -> None:
        self.conv = nn.Conv2d(self.in_channels, self.out_channels, 3, self.stride, 1, **self.place)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_UNITS", dict(registry._UNITS))
    register_unit(
        "pooled",
        replaces="stem",
        default_where="all",
        paper="none",
        year=2026,
        summary="a test",
        warm_start="none",
        fusion="none",
    )(Pooled)


def image(side: int) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "path", "others", "place"),
    [
        ("resnet18", "conv1", ("maxpool", "act1", "bn1"), "3->64 stem s4"),
        ("torchvision:resnet18", "conv1", ("maxpool", "relu", "bn1"), "3->64 stem s4"),
        ("torchvision:alexnet", "features.0", ("features.2", "features.1"), "3->64 stem s8"),
        ("densenet121", "features.conv0", ("features.pool0", "features.norm0.act", "features.norm0"), "3->64 stem s4"),
        (
            "resnet26d",
            "conv1.0",
            ("maxpool", "act1", "bn1", "conv1.6", "conv1.5", "conv1.4", "conv1.3", "conv1.2", "conv1.1"),
            "3->64 stem s4",
        ),
    ],
)
def test_finds_the_stems_of_real_networks(name: str, path: str, others: tuple[str, ...], place: str) -> None:
    (site,) = find_stem(convswap.create_model(name, num_classes=3), Inputs((image(96),), {}))
    assert (site.path, site.others, site.place.describe()) == (path, others, place)


@pytest.mark.parametrize("name", ["cifar_resnet20", "mobilenetv2_100", "torchvision:vgg16"])
def test_networks_without_a_stem_are_refused(name: str) -> None:
    model = convswap.create_model(name, num_classes=3)
    assert find_stem(model, Inputs((image(64),), {})) == []
    with pytest.raises(UsageError, match="no stem"):
        convswap.plan_swap(model, "pooled", example_input=image(64))


def test_what_something_else_reads_is_no_stem() -> None:
    class Peeks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            seen = self.relu(self.conv(x))
            return self.pool(seen).mean((2, 3)) + seen.mean((2, 3))

    assert find_stem(Peeks(), Inputs((image(8),), {})) == []


def test_swaps_as_one_and_comes_back_from_disk(tmp_path: Path) -> None:
    model = convswap.create_model("resnet18", num_classes=3).eval()
    plan = convswap.plan_swap(model, "pooled", example_input=image(64))
    (row,) = plan.replacements
    assert row.absorbed == ("maxpool", "act1", "bn1")
    assert row.parameters_before == 3 * 64 * 49 + 128
    swapped = plan.apply()
    assert type(swapped.conv1) is Pooled
    assert {type(swapped.get_submodule(path)) for path in row.absorbed} == {nn.Identity}
    loaded = convswap.load(convswap.save(swapped, tmp_path / "m.safetensors"))
    torch.testing.assert_close(loaded(image(64)), swapped(image(64)), rtol=0, atol=0)


def test_a_deep_stem_goes_as_one() -> None:
    model = convswap.create_model("resnet26d", num_classes=3).eval()
    plan = convswap.plan_swap(model, "pooled", example_input=image(64))
    (row,) = plan.replacements
    assert row.macs_before == (3 * 32 + 32 * 32 + 32 * 64) * 9 * 32**2
    assert row.parameters_before == (3 * 32 + 32 * 32 + 32 * 64) * 9 + 2 * (32 + 32 + 64)
    swapped = plan.apply()
    assert [type(child) for child in swapped.conv1] == [Pooled, *[nn.Identity] * 6]
    assert swapped(image(64)).shape == (1, 3)


def test_a_unit_of_another_size_is_refused() -> None:
    model = convswap.create_model("torchvision:alexnet", num_classes=3)  # its pool rounds down: 95 -> 11, not 12
    with pytest.raises(convswap.errors.SurgeryError, match="gives output shapes"):
        convswap.plan_swap(model, "pooled", example_input=image(95)).apply()
