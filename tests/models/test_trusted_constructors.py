"""A file names a function, and only the caller's word for the very same one lets it run."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import convswap
from convswap.errors import UsageError


def small(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def other(num_classes: int) -> nn.Module:
    return small(num_classes)


@pytest.mark.parametrize("given", [None, "other", "resnet18"])
def test_another_name_is_not_the_files(given: str | None, tmp_path: Path) -> None:
    name = f"{__name__}:small"
    path = convswap.save(small(3), tmp_path / "m.safetensors", constructor=name, arguments={"num_classes": 3})
    constructor = f"{__name__}:other" if given == "other" else given
    with pytest.raises(UsageError, match=f"built by your function '{name}'"):
        convswap.load(path, constructor=constructor)
    assert isinstance(convswap.load(path, constructor=name), nn.Sequential)
    assert isinstance(convswap.load(path, constructor=small), nn.Sequential)
