"""The data flows of the site show what the units' programs do."""

from __future__ import annotations

import functools
import re
from xml.etree import ElementTree

import pytest
import torch
from convswap_site.draw import cut, parameter_names, svg, wrapped
from convswap_site.flow import LIMIT, Box, data_flow, example
from torch import nn

from convswap.units import get_unit, list_units

FLOWING = [name for name in list_units() if get_unit(name).kind != "weight"]


@functools.cache
def flow_of(name: str) -> tuple[nn.Module, torch.Tensor, list[Box]]:
    torch.manual_seed(0)
    unit, image, _ = example(get_unit(name))
    return unit, image, data_flow(unit, image)


@pytest.mark.parametrize("name", FLOWING)
def test_a_unit_is_drawn_from_its_input_to_its_output(name: str) -> None:
    unit, image, boxes = flow_of(name)
    with torch.no_grad():
        assert boxes[-1].shape == tuple(unit(image).shape[1:])
    assert (boxes[0].title, boxes[0].shape, boxes[0].after) == ("input", tuple(image.shape[1:]), [])
    assert boxes[-1].title == "output"
    read = {id(previous) for box in boxes for previous in box.after}
    assert all(box.after for box in boxes[1:]), "a box that reads nothing"
    assert all(id(box) in read for box in boxes[:-1]), "a box that nothing reads"
    order = {id(box): number for number, box in enumerate(boxes)}
    assert all(order[id(previous)] < number for number, box in enumerate(boxes) for previous in box.after)


@pytest.mark.parametrize("name", FLOWING)
def test_boxes_name_real_modules_and_parameters(name: str) -> None:
    unit, _, boxes = flow_of(name)
    tensors = {key for key, _ in unit.named_parameters()} | {key for key, _ in unit.named_buffers()}
    for box in boxes:
        assert set(box.parameters) <= tensors
        if box.module:
            assert box.note.startswith(type(unit.get_submodule(box.title)).__name__)
    assert len(boxes) <= LIMIT


@pytest.mark.parametrize("name", FLOWING)
def test_a_picture_holds_every_box_and_its_text_within_the_frame(name: str) -> None:
    _, _, boxes = flow_of(name)
    root = ElementTree.fromstring(svg(boxes, f"Data flow of {name}: a < b & c"))
    space = "{http://www.w3.org/2000/svg}"
    width, height = (float(n) for n in root.attrib["viewBox"].split()[2:])
    drawn = [rect for rect in root.iter(f"{space}rect") if rect.attrib["class"] != "paper"]
    assert len(drawn) == len(boxes)
    corners = []
    for rect in drawn:
        x, y, w, h = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
        corners.append((x, y, w, h))
    for number, (x, y, w, h) in enumerate(corners):
        for x2, y2, w2, h2 in corners[:number]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y, "two boxes overlap"
    assert root.findtext(f"{space}title") == f"Data flow of {name}: a < b & c"
    arrows = [path for path in root.iter(f"{space}path") if "marker-end" in path.attrib]
    assert len(arrows) >= len(boxes) - 1


class Residual(nn.Module):
    """One module called twice, an unused branch, a parameter that is transformed, and the input added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.conv(x).sum()
        once = self.conv(x).relu()
        return self.conv(once) * self.gain.exp()[:, None, None] + x


def test_calls_are_told_apart_and_what_leads_nowhere_is_left_out() -> None:
    boxes = data_flow(Residual(), torch.randn(1, 4, 6, 6))
    assert [box.title for box in boxes] == ["input", "conv", "relu", "conv", "mul", "add", "output"]
    by_title = {box.title: box for box in boxes}
    assert by_title["mul"].parameters == ("gain",)
    assert [previous.title for previous in by_title["add"].after] == ["mul", "input"]
    assert boxes[1].note == "Conv2d 4->4 3x3"


def test_modules_are_opened_from_outside_as_far_as_there_is_room() -> None:
    def block(depth: int) -> nn.Sequential:
        return nn.Sequential(*(nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()) for _ in range(depth)))

    small = [box.title for box in data_flow(nn.Sequential(block(2), block(2)), torch.randn(1, 2, 4, 4))]
    assert small[1:-1] == [f"{i}.{j}.{k}" for i in range(2) for j in range(2) for k in range(2)]
    large = [box.title for box in data_flow(nn.Sequential(block(12), block(12)), torch.randn(1, 2, 4, 4))]
    assert len(large) <= LIMIT
    assert large[1:4] == ["0.0.0", "0.0.1", "0.1.0"]
    assert large[-3:] == ["0.11", "1", "output"], "there is no room to open the second, nor all of the first"


def test_text_fits() -> None:
    assert wrapped(["add", "clamp_min", "sqrt"], " → ", 16) == ["add → clamp_min →", "sqrt"]
    assert cut("abcdef", 4) == "abc…"
    assert parameter_names(("a.x", "a.y", "b", "a.z")) == ["a: 3 tensors", "b"]
    assert parameter_names(("weight", "bias")) == ["weight", "bias"]
    assert not re.search("L__self__|aten", svg([Box("input"), Box("output", after=[])], ""))
