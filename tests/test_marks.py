"""The mark in a state dict: what it says, what it survives, and whom it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from convswap.marks import (
    KEY,
    Marked,
    as_tensor,
    difference,
    marks_in,
    name_of,
    read,
    with_marks,
    without_marks,
    writes_mark,
)
from convswap.units import CircleConv2d, ICConv2d, PlainConv2d, XnorConv2d

CPU = torch.device("cpu")


class Scaled(Marked, nn.Module):
    """A module beside the units, with a setting that no tensor shows."""

    marked_settings = ("factor",)

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.inner = factor, nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.inner(x)


def test_a_mark_is_json_in_bytes_with_every_option() -> None:
    mark = CircleConv2d(2, 3, 3, radius=1.2).get_extra_state()
    assert mark.dtype == torch.uint8
    said = json.loads(bytes(mark.tolist()))
    assert said == {"unit": "circle", "options": {"angles": "even", "ring": "max", "radius": 1.2}}
    assert read(mark) == said


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_a_cast_of_the_state_leaves_the_mark_readable(dtype: torch.dtype) -> None:
    unit = ICConv2d(2, 3, 3)
    assert read(unit.get_extra_state().to(dtype)) == unit.mark()


def test_an_average_of_equal_marks_is_the_mark() -> None:
    mark = CircleConv2d(2, 3, 3).get_extra_state()
    averaged = sum(0.3333 * mark.float() for _ in range(2)) + 0.3334 * mark.float()
    assert read(averaged) == CircleConv2d(2, 3, 3).mark()


@pytest.mark.parametrize(
    "value", [None, "circle", torch.zeros(3), torch.full((2, 2), 34), torch.tensor([255, 254]), torch.tensor([91, 93])]
)
def test_what_is_no_mark_is_read_as_none_and_refused(value: object) -> None:
    assert read(value) is None
    assert difference(value, {"unit": "circle", "options": {}}) is not None


def test_a_mark_without_values_is_not_compared() -> None:
    assert difference(torch.empty(9, dtype=torch.uint8, device="meta"), {"unit": "circle", "options": {}}) is None
    with torch.device("meta"):
        assert read(CircleConv2d(2, 3, 3, device="cpu").get_extra_state()) is not None
    assert CircleConv2d(2, 3, 3, device="meta").get_extra_state().is_meta


def test_only_the_options_that_differ_are_named() -> None:
    mine = CircleConv2d(2, 3, 3).mark()
    theirs = CircleConv2d(2, 3, 3, radius=0.5).get_extra_state()
    assert difference(theirs, mine) == (
        "the state given is of circle(radius=0.5), but this is circle(radius=1); open it with convswap.load, or build "
        "the model with circle(radius=0.5)"
    )
    absent = as_tensor({"unit": "circle", "options": {"ring": "max", "radius": 1}}, CPU)
    assert "circle(angles='absent')" in str(difference(absent, mine))


def test_a_class_derived_by_a_tool_keeps_the_name_and_one_with_another_function_does_not() -> None:
    class Twice(CircleConv2d):
        def effective_weight(self) -> Tensor:
            return 2 * super().effective_weight()

    assert name_of(type("FSDPCircleConv2d", (CircleConv2d,), {})) == "circle"
    assert name_of(Twice) == Twice.__qualname__
    normed = parametrizations.weight_norm(CircleConv2d(2, 3, 3))
    assert type(normed) is not CircleConv2d
    assert normed.mark()["unit"] == "circle"


def test_the_plain_convolution_as_a_unit_writes_no_mark() -> None:
    assert list(PlainConv2d(2, 3, 3).state_dict()) == ["weight", "bias"]
    assert not writes_mark(PlainConv2d(2, 3, 3))
    nn.Conv2d(2, 3, 3).load_state_dict(PlainConv2d(2, 3, 3).state_dict(), strict=True)
    with pytest.raises(RuntimeError, match="is of circle, but this is conv"):
        PlainConv2d(2, 3, 3).load_state_dict(CircleConv2d(2, 3, 3).state_dict())


def test_marks_in_and_with_marks_know_every_path() -> None:
    model = nn.Sequential(XnorConv2d(2, 3, 3), nn.Conv2d(3, 3, 3), CircleConv2d(3, 3, 3))
    model.append(model[2])
    marks = marks_in(model.state_dict())
    assert {path: mark["unit"] for path, mark in marks.items()} == {
        "0": "xnor",
        "0.conv": "binary_weight",
        "2": "circle",
        "3": "circle",
    }
    bare = without_marks(model.state_dict())
    assert set(bare) == {name for name in model.state_dict() if not name.endswith(KEY)}
    assert not marks_in(bare)
    assert marks_in(with_marks(model, bare)) == marks
    assert list(with_marks(model[2], model[2].state_dict())) == ["weight", "bias", KEY]


def test_any_module_can_bear_a_mark() -> None:
    with pytest.raises(RuntimeError, match=r"is of Scaled\(factor=2\.0\), but this is Scaled\(factor=3\.0\)"):
        Scaled(3.0).load_state_dict(Scaled(2.0).state_dict())
    same = Scaled(2.0)
    same.load_state_dict(Scaled(2.0).state_dict())
    kept = same.inner.weight.clone()
    with pytest.warns(UserWarning, match="but this is Scaled"):
        missing, unexpected = same.load_state_dict(Scaled(3.0).state_dict(), strict=False)
    assert (missing, unexpected) == (["inner.weight", "inner.bias"], [])
    assert torch.equal(same.inner.weight, kept)
