"""A unit's options are part of what a checkpoint and a saved model belong to, also where its repr hides them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convswap
from convswap.errors import TrainingError, UsageError
from convswap.train import fit
from convswap.units import BlockUnit, FeatureUnit, register_unit
from convswap.units.contract import registry
from convswap.units.contract.options import options_of

from .conftest import make_recipe


class Secret(FeatureUnit):
    """A unit that scales its output, and says nothing of it."""

    bias = None

    def setup(self, *, temperature: float = 30.0, levels: tuple[float, ...] = (0.0, 1.0)) -> None:
        self.conv = nn.Conv2d(**self.geometry.arguments() | {"bias": False}, **self.place)

    @property
    def weight(self) -> Tensor:
        return self.conv.weight

    def forward(self, input: Tensor) -> Tensor:
        return self.conv(input) / self.options["temperature"]

    def extra_repr(self) -> str:
        return "nothing to see"


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    convswap.list_units()
    monkeypatch.setattr(registry, "_UNITS", dict(registry._UNITS))
    row: dict[str, Any] = {"paper": "none", "year": 2026, "summary": "a test", "warm_start": "none", "fusion": "none"}
    register_unit("secret", default_where="all", **row)(Secret)


def network(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Secret(1, 4, 3, **options), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def test_a_training_resumes_only_with_the_same_options(data: Any, tmp_path: Path) -> None:
    run: dict[str, Any] = {"seed": 0, "directory": tmp_path, "progress": False, "device": "cpu"}
    fit(network(temperature=30.0), data, make_recipe(epochs=1), **run)
    assert fit(network(temperature=30), data, make_recipe(epochs=1), **run).resumed_after == 1
    assert fit(network(levels=[0, 1.0]), data, make_recipe(epochs=1), **run).resumed_after == 1
    with pytest.raises(TrainingError) as caught:
        fit(network(temperature=0.05), data, make_recipe(epochs=1), **run)
    text = str(caught.value)
    assert "`0: option temperature=30` where this one has `0: option temperature=0.05`" in text
    assert "\n" not in text


def test_a_model_is_saved_only_with_the_options_of_its_history(tmp_path: Path) -> None:
    model = convswap.create_model("cifar_resnet8", num_classes=3)
    example = torch.zeros(1, 3, 16, 16)
    swapped = convswap.swap(model, "secret", example_input=example, temperature=0.05, levels=[0.0, 2.0])
    path = convswap.save(swapped, tmp_path / "model.safetensors")
    loaded = convswap.load(path)
    assert {m.options["temperature"] for m in loaded.modules() if isinstance(m, Secret)} == {0.05}
    first = next(m for m in swapped.modules() if isinstance(m, Secret))
    first.options["temperature"] = 7.0
    with pytest.raises(UsageError, match=r"with option temperature=7.0, but .* has option temperature=0.05 there"):
        convswap.save(swapped, tmp_path / "other.safetensors")


@pytest.mark.parametrize("name", convswap.list_units())
def test_units_that_differ_in_an_option_print_differently(name: str) -> None:
    spec = convswap.get_unit(name)
    place = {"in_channels": 16, "out_channels": 16}
    if not issubclass(spec.cls, BlockUnit):
        place |= {"kernel_size": 3, "padding": 1} | ({"groups": 16} if name == "fixed" else {})
    elif spec.replaces == "stem":
        place = {"in_channels": 3, "out_channels": 64, "stride": 4}
    else:
        place |= {"stride": 1}
    build: Any = spec.cls
    texts = [build(**place, **options).extra_repr() for options in ({}, *spec.variants)]
    assert len(set(texts)) == len(texts)
    defaults = options_of(spec.cls)
    for options, text in zip(spec.variants, texts[1:], strict=True):
        assert all(option in text for option, value in options.items() if value != defaults[option])
