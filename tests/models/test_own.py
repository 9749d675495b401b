"""Models of the user: functions without `num_classes`, and errors in their code as one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import convswap
from convswap.errors import UsageError, own_frames
from convswap.models.own import call_own_function, find_function, is_own

HERE = __name__


class Segmenter(nn.Module):
    """A host without classes."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


def classifier(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, num_classes, 3))


def greedy(**everything: int) -> nn.Module:
    return Segmenter(everything.get("width", 2))


@pytest.mark.parametrize(("function", "arguments"), [("Segmenter", {}), ("Segmenter", {"width": 6}), ("greedy", {})])
def test_a_host_without_classes_is_saved_and_loaded(function: str, arguments: dict[str, int], tmp_path: Path) -> None:
    """Before: "lacks 'num_classes', which create_model needs"."""
    net = globals()[function](**arguments).eval()
    x = torch.randn(1, 3, 8, 8)
    swapped = convswap.swap(net, "circle", where="all", example_input=x)
    name = f"{HERE}:{function}"
    path = convswap.save(swapped, tmp_path / "m.safetensors", constructor=name, arguments=arguments)
    assert torch.equal(convswap.load(path, constructor=name)(x), swapped(x))
    assert torch.equal(convswap.load(path, constructor=globals()[function])(x), swapped(x))
    assert "num_classes" not in convswap.create_model(name, **arguments)._convswap_constructor["arguments"]


def test_a_function_that_takes_classes_needs_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lacks 'num_classes', which its function takes"):
        convswap.save(classifier(3), tmp_path / "m.safetensors", constructor=f"{HERE}:classifier")
    with pytest.raises(UsageError, match="num_classes=None"):
        convswap.create_model("resnet18")


def test_names_of_own_functions() -> None:
    assert [is_own(name) for name in ("a.b:c", ":c", "timm:resnet18", "torchvision:resnet18", "resnet18")] == [
        *(True, True, False, False, False)
    ]
    assert find_function(f"{HERE}:classifier") is classifier


def test_an_error_of_the_function_is_one_line_with_the_users_frames() -> None:
    def outer(num_classes: int) -> nn.Module:
        return inner(num_classes)

    def inner(n: int) -> nn.Module:
        return nn.Linear(n, -1)

    with pytest.raises(UsageError) as caught:
        call_own_function("mine:outer", outer, num_classes=2)
    said = str(caught.value)
    assert said.startswith("model 'mine:outer' fails with RuntimeError: ")
    assert "test_own.py, line" in said
    assert ", in outer: return inner(num_classes) > test_own.py, line" in said
    assert said.endswith(", in inner: return nn.Linear(n, -1))")
    assert "\n" not in said
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_frames_of_installed_code_are_left_out() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.zeros(2).reshape(3)
    assert own_frames(raised.value).startswith(" (test_own.py, line")
    with pytest.raises(UsageError) as refused:
        convswap.get_unit("nothing")
    assert "registry" not in own_frames(refused.value)
