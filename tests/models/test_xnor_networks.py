"""The networks of XNOR-Net: layers as the programs have them, equal swaps; sizes: `published/xnor.json`."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import convswap
from convswap.models import families
from convswap.units import BinaryWeightConv2d, XnorConv2d

NAMES = {"xnor_alexnet": 224, "xnor_alexnet_relu": 227, "bwn_alexnet": 224, "xnor_nin": 32}
NAMES |= {"xnor_resnet18": 224, "bwn_resnet18": 224}
BINARY = {"xnor_alexnet": 58_236_928, "xnor_alexnet_relu": 58_236_928, "bwn_alexnet": 58_236_928, "xnor_nin": 949_248}
BINARY |= {"xnor_resnet18": 10_985_472, "bwn_resnet18": 10_985_472}


@pytest.mark.parametrize("name", NAMES)
def test_registered_with_timm(name):
    assert any(hasattr(getattr(families, family), name) for family in families.__all__)
    assert name in timm.list_models("*")
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1)
        image = torch.empty(2, 1, NAMES[name], NAMES[name])
        assert model(image).shape == (2, 7)
        headless = timm.create_model(name, num_classes=0)
        assert headless(torch.empty(2, 3, NAMES[name], NAMES[name])).shape == (2, headless.num_features)
        assert model.forward_features(image).shape[1] == model.num_features
    assert model.default_cfg["input_size"][1] == NAMES[name]


@pytest.mark.parametrize("name", NAMES)
def test_all_but_the_first_and_the_last_layer_is_binary(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    kinds = [isinstance(m, BinaryWeightConv2d) for m in layers if getattr(m, "kernel_size", 0) != (1, 1)]
    assert not kinds[0]
    assert not isinstance(layers[-1], BinaryWeightConv2d)
    if "resnet" not in name:  # whose shortcuts are full precision
        assert all(isinstance(m, BinaryWeightConv2d) for m in layers[1:-1])
    assert sum(m.weight.numel() for m in layers if isinstance(m, BinaryWeightConv2d)) == BINARY[name]


def test_alexnet_blocks_stand_in_the_programs_order():
    with torch.device("meta"):
        official, port = timm.create_model("xnor_alexnet"), timm.create_model("xnor_alexnet_relu")
    unit, pool, relu, norm = "XnorConv2d", "MaxPool2d", "ReLU", "BatchNorm2d"
    assert [type(m).__name__ for m in official.features] == [unit, pool, unit, unit, unit, pool]
    assert [type(m).__name__ for m in official.hidden] == [unit, unit, norm, relu]
    inner = [unit, relu, pool, unit, relu, unit, relu, unit, relu, pool]
    assert [type(m).__name__ for m in port.features] == inner
    assert [type(m).__name__ for m in port.hidden] == [unit, relu, unit, relu, norm]
    assert port.hidden[0].bn.num_features == 9216
    assert official.hidden[0].bn.num_features == 256
    assert official.hidden[2].eps == 1e-3
    assert port.hidden[2].dropout == 0.5
    assert port.hidden[0].bn.eps == official.features[0].bn.eps == 1e-4


def test_a_flattened_layer_equals_the_6x6_convolution_of_the_same_numbers():
    torch.manual_seed(0)
    conv = XnorConv2d(8, 5, 6, dtype=torch.float64).eval()
    flat = XnorConv2d(8 * 36, 5, 1, dtype=torch.float64).eval()
    with torch.no_grad():
        flat.weight.copy_(conv.weight.flatten(1)[:, :, None, None])
        flat.bias.copy_(conv.bias)
    x = torch.randn(3, 8, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(flat(x.flatten(1)[:, :, None, None]), conv(x), rtol=0, atol=1e-12)


def test_bwn_alexnet_refuses_what_it_has_not():
    with pytest.raises(ValueError, match="dense='linear'"):
        timm.create_model("bwn_alexnet", dense="linear")
    with pytest.raises(ValueError, match="binary='bits'"):
        timm.create_model("xnor_resnet18", binary="bits")


def test_swapping_resnet18_gives_the_named_networks():
    image = torch.randn(2, 3, 64, 64)
    for name, unit in (("xnor_resnet18", "xnor"), ("bwn_resnet18", "binary_weight")):
        host = convswap.create_model("torchvision:resnet18", num_classes=10)
        swapped = convswap.swap(host, unit, start="fresh", example_input=image).eval()
        named = timm.create_model(name, num_classes=10).eval()
        for norm in (m for m in named.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.eps = 1e-5  # a BatchNorm that moves keeps the host's, a new one has the unit's
        for norm in (m for m in swapped.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.eps = 1e-5
        named.load_state_dict(swapped.state_dict(), strict=True)
        assert torch.equal(named(image), swapped(image))


def test_nin_keeps_scales_positive_and_trains():
    torch.manual_seed(0)
    model = timm.create_model("xnor_nin")
    units = [m for m in model.modules() if isinstance(m, XnorConv2d)]
    assert [u.kernel_size[0] for u in units] == [1, 1, 5, 1, 1, 3, 1]
    assert [u.dropout for u in units] == [0, 0, 0.5, 0, 0, 0.5, 0]
    with torch.no_grad():
        units[0].bn.weight[:3] = torch.tensor([-1.0, 0.0, 0.5])
    model.constrain_()
    assert units[0].bn.weight[:3].tolist() == pytest.approx([0.01, 0.01, 0.5])
    x = torch.randn(2, 3, 32, 32)
    nn.functional.cross_entropy(model(x), torch.tensor([1, 2])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert model(x).min() >= 0  # the program rectifies its logits


@pytest.mark.parametrize("name", ["xnor_nin", "xnor_resnet18"])
def test_the_map_k_is_an_option(name):
    with torch.device("meta"):
        model = timm.create_model(name, input_scale="K").eval()
        assert model(torch.empty(1, 3, 32, 32)).dim() == 2
    assert all(m.input_scale == "K" for m in model.modules() if isinstance(m, XnorConv2d))
