"""The degree of end-stopping on filters whose answer is known."""

import math

import pytest
import torch
from torch import nn

from convswap.measure.end_stopping import _masks, end_stopping
from convswap.models import create_model


class Painted(nn.Module):
    """Ignores the image and shows given maps (C, H, W)."""

    def __init__(self, maps):
        super().__init__()
        self.register_buffer("maps", maps)
        self.layer = nn.Identity()

    def forward(self, x):
        return self.layer(self.maps.expand(len(x), *self.maps.shape))


class Derivatives(nn.Module):
    """Three channels of real filters: corner (product of both derivatives), edge (their absolute sum), brightness."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        x = x[:, :1]
        dx = nn.functional.pad(x[..., 1:] - x[..., :-1], (0, 1)).abs()
        dy = nn.functional.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1)).abs()
        near = [nn.functional.max_pool2d(d, 3, 1, 1) for d in (dx, dy)]
        return self.layer(torch.cat([near[0] * near[1], torch.maximum(dx, dy), (x - x.amin()).abs()], 1))


def outline(size=32, square=16):
    """A corner-only, an edge-only, an edge-and-corner, a filled and an empty map."""
    low, high = (size - square) // 2, (size + square) // 2 - 1
    maps = torch.zeros(5, size, size)
    for row in (low, high):
        for column in (low, high):
            maps[0, row, column] = 1
    maps[2, [low, high], low : high + 1] = 1
    maps[2, low : high + 1, [low, high]] = 1
    maps[1] = maps[2]
    reach = square // 8 + 1
    for row in (low, high):
        for column in (low, high):
            maps[1, row - reach : row + reach + 1, column - reach : column + reach + 1] = 0
    maps[3, low : high + 1, low : high + 1] = 1
    return maps


def test_painted_maps_give_the_formula_by_hand():
    result = end_stopping(Painted(outline()), "layer")
    # 4 corner pixels; in each window of 4x4 a side has 4 pixels, a corner 2 + 1; the square's middle is 8x8
    energy = outline().square()
    height = min(1.0, float(1 / (3 * energy.std(correction=0) + energy.mean())))
    expected = 2 * height * torch.tensor([[0, 0, 4], [0, 16, 0], [0, 16, 12], [64, 32, 16], [0, 0, 0]]).double()
    torch.testing.assert_close(result.energy, expected)
    assert result.silent.tolist() == [False, False, False, False, True]
    assert result.homogeneous.tolist() == [False, False, False, True, False]
    assert result.degree[:2].tolist() == [1.0, -0.5]
    assert result.degree[2] == pytest.approx(max(-0.5, 1 - 32 * height / (24 * height + 0.1)))
    assert all(math.isnan(value) for value in result.degree[3:])
    assert result.mean() == pytest.approx(float(result.degree[:3].mean()))


def test_real_filters_are_told_apart():
    result = end_stopping(Derivatives(), "layer")
    assert result.degree[0] == pytest.approx(1, abs=0.05)
    assert result.degree[1] < 0.1
    assert result.homogeneous.tolist() == [False, False, True]


def test_masks_have_equal_areas_and_do_not_meet():
    for size, square, window in ((32, 16, 4), (224, 64, 16), (64, 32, 8)):
        masks = _masks(size, square, window)
        assert masks.sum((1, 2)).tolist() == [4 * window**2] * 3
        assert masks.sum(0).max() == 1


def test_smaller_maps_read_subsampled_masks():
    large = end_stopping(Painted(outline(224, 64).repeat_interleave(1, 1)), "layer", image_size=224)
    assert large.degree[0] == 1
    maps = torch.zeros(2, 56, 56)
    maps[0, 20:36, 20:36] = 1  # the square itself at a quarter of the resolution
    result = end_stopping(Painted(maps), "layer", image_size=224)
    assert result.energy[0].tolist() == pytest.approx((2 * torch.tensor([64.0, 32.0, 16.0]) * height_of(maps)).tolist())


def height_of(maps):
    return min(1.0, float(1 / (3 * maps.std(correction=0) + maps.mean())))


def test_a_network_is_left_as_it_was():
    model = create_model("min_net23", num_classes=10)
    model.layer2.eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    result = end_stopping(model, model.layer1[0].core.left)
    assert result.degree.shape == (32,)
    assert result.energy.shape == (32, 3)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.layer1[0].core.left._forward_hooks
    alike = end_stopping(model, "layer1.0.core.left")
    torch.testing.assert_close(alike.energy, result.energy)
    assert end_stopping(
        create_model("min_net23", num_classes=10, in_channels=1), "conv1", in_channels=1
    ).silent.shape == (16,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "nowhere"}, "layer='nowhere': the model has no such module"),
        ({"layer": nn.Identity()}, r"layer=Identity\(...\) is not a module of the model"),
        ({"layer": "linear"}, r"its output must be one map .* got \[\(1, 10\)\]"),
        ({"layer": "layer3", "window": 2}, "its maps of 8x8 are too small for the windows"),
        ({"layer": "conv1", "image_size": 31}, "image_size=31 is not allowed; give an even whole number"),
        (
            {"layer": "conv1", "square": 40},
            "square=40 is not allowed; give an even whole number of at least 2 and at most",
        ),
        ({"layer": "conv1", "window": 3}, "window=3 is not allowed"),
        (
            {"layer": "layer3", "image_size": 30, "square": 14, "window": 4},
            "its maps of 8x8 do not divide an image of 30x30",
        ),
    ],
)
def test_wrong_arguments_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        end_stopping(create_model("min_net23", num_classes=10), **arguments)
