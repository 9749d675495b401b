"""Effective kernels: what is read off equals what the layer computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convswap
from convswap.see import Layer, effective_kernel, feature_maps, find_layers, last_map, layer_kernels, linearised_kernel
from convswap.see.layers import output_of


class Standardised(nn.Conv2d):
    """A convolution whose `weight` is not what it convolves with."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 16, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def test_plain_convolutions_show_their_weight_stage_and_role() -> None:
    model = net().train()
    layers = layer_kernels(model, torch.randn(2, 3, 16, 16))
    assert [layer.name for layer in layers] == ["0", "2", "5"]
    assert [layer.stage for layer in layers] == [0, 1, 1]
    assert [layer.role for layer in layers] == ["dense", "strided depthwise", "depthwise"]
    assert [layer.last_depthwise for layer in layers] == [False, False, True]
    assert all(layer.origin == "weight" for layer in layers)
    assert layers[0].kernels.shape == (24, 3, 3)
    torch.testing.assert_close(layers[1].weight, model[2].weight.detach().double())
    assert model.training
    assert layer_kernels(model, layers=["5"])[0].stage is None


def test_unknown_layer_is_named() -> None:
    with pytest.raises(ValueError, match="unknown convolution '7'"):
        layer_kernels(net(), layers=["7"])
    with pytest.raises(ValueError, match="unknown layer 'nothing'"):
        feature_maps(net(), torch.randn(1, 3, 8, 8), ["nothing"])


def test_weight_units_show_the_effective_weight() -> None:
    model = convswap.swap(net(), "circle", where="3x3", example_input=torch.randn(1, 3, 16, 16), start="fresh")
    layer = layer_kernels(model, layers=["0"])[0]
    assert layer.origin == "effective weight"
    fused = convswap.fuse(model.eval(), torch.randn(1, 3, 16, 16))
    torch.testing.assert_close(layer.weight, layer_kernels(fused, layers=["0"])[0].weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_linearising_a_convolution_gives_its_weight(stride: int, padding: int, size: int) -> None:
    torch.manual_seed(1)
    conv = nn.Conv2d(4, 6, size, stride, padding, groups=2, dtype=torch.float64)
    torch.testing.assert_close(linearised_kernel(Layer("x", conv)), conv.weight.detach())


def test_linearising_at_small_maps() -> None:
    conv = nn.Conv2d(3, 40, 3, padding=1, dtype=torch.float64)
    found = linearised_kernel(Layer("x", conv), torch.randn(2, 3, 4, 1, dtype=torch.float64))
    torch.testing.assert_close(found, conv.weight.detach())


def test_a_dilated_convolution_linearised_holds_its_gaps() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=2, dilation=2, dtype=torch.float64)
    found = linearised_kernel(Layer("x", conv))
    assert found.shape == (2, 2, 5, 5)
    torch.testing.assert_close(found[:, :, ::2, ::2], conv.weight.detach())
    assert found[:, :, 1::2].abs().max() == 0


def test_a_convolution_that_changes_its_weight_is_linearised() -> None:
    conv = Standardised(3, 5, 3, padding=1)
    weight, origin = effective_kernel(Layer("x", conv))
    assert origin == "linearised"
    wanted = (conv.weight - conv.weight.mean((1, 2, 3), keepdim=True)).detach().double()
    torch.testing.assert_close(weight, wanted, atol=1e-6, rtol=1e-5)


class OfMagnitudes(nn.Conv2d):
    """Nonlinear, with a known derivative: minus the weight where the input is negative."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.abs())


def test_nonlinear_layers_are_linearised_at_what_they_see() -> None:
    conv = OfMagnitudes(2, 3, 3, padding=1, dtype=torch.float64)
    weight = conv.weight.detach()
    positive, negative = torch.ones(1, 2, 20, 20, dtype=torch.float64), -torch.ones(3, 2, 20, 20, dtype=torch.float64)
    torch.testing.assert_close(linearised_kernel(Layer("x", conv), positive), weight)
    torch.testing.assert_close(linearised_kernel(Layer("x", conv), negative), -weight)
    both = torch.cat([positive, negative])  # the mean over four points
    torch.testing.assert_close(linearised_kernel(Layer("x", conv), both), -weight / 2)


CONVOLUTION_SHAPED = [name for name in convswap.list_units() if convswap.get_unit(name).kind != "block"]


@pytest.mark.parametrize("unit", CONVOLUTION_SHAPED)
def test_units_in_a_network(unit: str) -> None:
    images = torch.randn(4, 3, 16, 16)
    place = "2" if unit == "fixed" else "0"
    # Constant kernels are depthwise; so are the frequency filters, in front of a 1x1 convolution.
    shape = {"fixed": (8, 1), "niff": (3, 1)}.get(unit, (8, 3))
    model = convswap.swap(net(), unit, where=place, example_input=images, start="fresh").eval()
    layer = layer_kernels(model, images, layers=[place])[0]
    assert layer.weight.shape[:2] == shape
    assert layer.weight.isfinite().all()
    assert layer.weight.abs().amax((1, 2, 3)).median() > 0


def test_layers_inside_block_units_are_found() -> None:
    names = [layer.name for layer in find_layers(nn.ModuleDict({"a": nn.Conv2d(1, 1, 3), "b": nn.Sequential(net())}))]
    assert names == ["a", "b.0.0", "b.0.2", "b.0.3", "b.0.5"]
    shared = nn.Conv2d(1, 1, 3)
    assert [layer.name for layer in find_layers(nn.Sequential(shared, shared))] == ["0"]


def test_last_map_and_maps_before_in_place_changes() -> None:
    model = net().eval()
    images = torch.randn(2, 3, 16, 16)
    assert last_map(model, images) == "5"
    before = F.conv2d(images, model[0].weight, model[0].bias, padding=1)
    torch.testing.assert_close(feature_maps(model, images, ["0"])["0"], before)
    torch.testing.assert_close(output_of(model, images, "0"), before)
    with pytest.raises(ValueError, match="no feature map"):
        last_map(nn.Sequential(nn.Flatten(), nn.Linear(3, 3)), torch.randn(1, 3, 1, 1))
