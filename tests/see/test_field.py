"""Effective receptive fields: golden maps of the RepLKNet script, and networks whose field is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from convswap.see import ReceptiveField, receptive_field, receptive_fields
from convswap.see.field import NoFieldError

Golden = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize(("name", "kernel", "depth"), [("k3d3s1_33", 3, 3), ("k7d4s1_48", 7, 4)])
def test_golden(golden: Golden, name: str, kernel: int, depth: int) -> None:
    case = golden("analysis")[f"case_erf_{name}"]
    modules: list[nn.Module] = []
    for index in range(depth):
        conv = nn.Conv2d(3 if index == 0 else 6, 6, kernel, padding=kernel // 2, bias=False)
        modules += [conv, nn.BatchNorm2d(6), nn.ReLU()]
    model = nn.Sequential(*modules).double()
    model.load_state_dict(case["state_dict"])
    found = receptive_field(model, case["input"], batch_size=3)
    assert found.layer == str(3 * depth - 1)
    torch.testing.assert_close(found.contribution, case["output"], atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(found.values("log"), case["log_scaled"], atol=1e-12, rtol=1e-9)
    for part, wanted in case["rectangles"].items():
        for transform, key in (("log", "log_official"), ("raw", "raw")):
            square = found.square(float(part), transform)
            assert [square.side, square.area] == pytest.approx(wanted[key])
    assert model.training


def test_one_convolution_is_its_own_field() -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False, dtype=torch.float64)
    weight = torch.tensor([[1.0, 2, 1], [0, 4, 0], [-3, 2, 1]], dtype=torch.float64)
    conv.weight.data[0, 0] = weight
    images = torch.ones(2, 1, 9, 7, dtype=torch.float64)
    found = receptive_field(nn.Sequential(conv), images, "0")
    torch.testing.assert_close(found.contribution[3:6, 2:5], weight.relu())
    assert float(found.contribution.sum()) == float(weight.relu().sum())
    absolute = receptive_field(nn.Sequential(conv), images, "0", gradient="absolute")
    torch.testing.assert_close(absolute.contribution[3:6, 2:5], weight.abs())
    assert absolute.size() == pytest.approx(7**0.5)  # seven weights above 0.0455 * 4
    assert (found.images, found.dead, found.skipped) == (2, 0, 0)


def field(contribution: torch.Tensor) -> ReceptiveField:
    return ReceptiveField("x", contribution.double(), 1, 0, 0, "positive")


def test_squares_of_a_flat_field() -> None:
    flat = field(torch.ones(11, 11))
    # 3 x 3 of 121 is 7.4 %, 5 x 5 20.7 %, 7 x 7 40.5 %, 9 x 9 66.9 %.
    assert [s.side for s in flat.squares("raw").values()] == [5, 7, 9, 11]
    assert flat.square(0.2, "raw").area == pytest.approx(25 / 121)
    assert flat.square(0.99).area == 1
    wide = field(torch.ones(5, 11))  # 5 x 7 of 55 is 63.6 %
    assert wide.square(0.5, "raw").side == 7
    assert wide.square(0.5, "raw").area == pytest.approx(7 / 11)
    with pytest.raises(ValueError, match="part=1"):
        flat.square(1)


def test_only_raw_and_normalised_do_not_depend_on_the_scale() -> None:
    x = torch.arange(31.0) - 15
    bump = torch.exp(-(x[:, None] ** 2 + x[None] ** 2) / 30)
    small, large = field(bump), field(1000 * bump)
    assert small.square(0.5, "raw") == large.square(0.5, "raw")
    assert small.square(0.5, "log_normalised") == large.square(0.5, "log_normalised")
    assert small.square(0.5, "log").side < large.square(0.5, "log").side
    for transform in ("raw", "log", "log_normalised"):
        assert float(small.values(transform).max()) == 1
    with pytest.raises(ValueError, match="transform='sqrt'"):
        small.values("sqrt")


def test_a_middle_layer_in_front_of_an_in_place_relu() -> None:
    torch.manual_seed(0)
    convs = [nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)]
    plain = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU())
    in_place = nn.Sequential(nn.ReLU(inplace=True), convs[0], nn.ReLU(inplace=True), convs[1])
    images = torch.rand(2, 2, 12, 12)
    first = receptive_field(plain, images, "0", gradient="absolute")
    second = receptive_field(in_place, images, "1", gradient="absolute")
    torch.testing.assert_close(first.contribution, second.contribution)
    rows, columns = first.contribution.nonzero().unbind(1)
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (5, 7, 5, 7)


def test_dead_nan_and_missing() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=True)
    conv.weight.data.fill_(1.0)
    conv.bias.data.fill_(0.0)
    model = nn.Sequential(conv, nn.Flatten(), nn.Linear(9, 1))
    images = torch.stack([torch.ones(1, 3, 3), -torch.ones(1, 3, 3)])
    found = receptive_field(model, images, "0")
    assert (found.images, found.dead) == (2, 1)
    assert float(found.contribution[1, 1]) == 0.5
    broken = nn.Sequential(_Root(), conv)
    half = receptive_field(broken, images, "1")
    assert (half.images, half.skipped) == (1, 1)
    assert float(half.contribution[1, 1]) == 0.5  # the slope of the root at 1: an image that is skipped halves nothing
    with pytest.raises(NoFieldError, match="no image of 1 moves the unit"):
        receptive_field(model, images[1:], "0")
    with pytest.raises(ValueError, match="not a feature map"):
        receptive_field(model, images, "2")
    with pytest.raises(ValueError, match="unknown layer 'conv'"):
        receptive_field(model, images, "conv")
    with pytest.raises(ValueError, match="images must be"):
        receptive_field(model, images[0])
    with pytest.raises(NoFieldError, match="no gradient passes"):
        receptive_field(nn.Sequential(_Cut(), nn.Identity()), images, "1")


class _Root(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt()


class _Cut(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()


def test_side_by_side() -> None:
    images = torch.rand(2, 1, 21, 21)
    models = {}
    for size in (3, 9):
        conv = nn.Conv2d(1, 1, size, padding=size // 2, bias=False)
        conv.weight.data.fill_(1.0)
        models[f"{size}x{size}"] = nn.Sequential(conv)
    found = receptive_fields(models, images)
    assert {name: f.square(0.99, "raw").side for name, f in found.items()} == {"3x3": 3, "9x9": 9}
