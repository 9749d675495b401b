"""BinaryNets: the published layers and sizes (`published/binarynet.json`), the float twins, training and packing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

import convswap
import convswap.models.binarynet as module
import convswap.models.binarynet_resnet
from convswap.models.binarynet import vgg_stages
from convswap.ops.binary_conv import PackedBinaryConv2d
from convswap.surgery.macs import count_macs
from convswap.train import binary_recipe, constrain, evaluate, fit, learning_rate_scales
from convswap.units import QuantizedConv2d, ShiftBatchNorm2d

SMALL = {"stages": vgg_stages((64, 64, 96, 64)), "hidden": (128,), "img_size": 16}
NAMES = {
    "binarynet_cifar10": (3, 32),
    "binarynet_svhn": (3, 32),
    "binarynet_mnist": (1, 28),
    "binarynet_mnist_2048": (1, 28),
    "binarynet_vgg_3x": (3, 32),
    "binarynet_alexnet_3x": (3, 224),
    "binarynet_resnet18_5x": (3, 32),
}


@pytest.mark.parametrize("twin", ["", "_float"])
@pytest.mark.parametrize("name", NAMES)
def test_registered_with_timm(name, twin):
    channels, size = NAMES[name]
    assert name + twin in timm.list_models("binarynet*")
    with torch.device("meta"):
        model = timm.create_model(name + twin, num_classes=7)
        assert model(torch.empty(2, channels, size, size)).shape == (2, 7)
        features = timm.create_model(name + twin, num_classes=0)
        assert features(torch.empty(2, channels, size, size)).shape == (2, features.num_features)
        unpooled = timm.create_model(name + twin, num_classes=0, global_pool="")
        maps = unpooled(torch.empty(2, channels, size, size))
        assert maps.shape[:2] == (2, unpooled.feature_info[-1]["num_chs"] if unpooled.feature_info else channels)
    for number, info in enumerate(model.feature_info):
        assert model.get_submodule(info["module"]) is model.stages[number]
    units = [m for m in model.modules() if isinstance(m, QuantizedConv2d)]
    assert len(units) == (0 if twin else sum(isinstance(m, nn.Conv2d) for m in model.modules()))
    if units:  # the image alone is real
        assert [u.activation_bits for u in units] == [32] + [1] * (len(units) - 1)
        assert all(u.weight_bits == 1 for u in units)


def test_the_paper_counts_its_weights():
    with torch.device("meta"):
        model = timm.create_model("binarynet_cifar10")
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert sum(w.numel() for w in weights) == 14_022_016
    assert [w.shape[0] for w in weights] == [128, 128, 256, 256, 512, 512, 1024, 1024, 10]
    assert count_macs(model, torch.zeros(1, 3, 32, 32, device="meta")) == 616_966_144


def test_pooling_stands_before_the_normalisation_and_the_sign_behind_it():
    model = timm.create_model("binarynet_cifar10", **SMALL)
    assert [name for name, _ in model.stages[1].named_children()] == ["conv", "pool", "norm", "act"]
    assert [name for name, _ in model.stages[2].named_children()] == ["conv", "norm", "act"]
    assert [name for name, _ in model.head.named_children()] == ["conv", "norm"]
    assert all(m.eps == 1e-4 for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_the_network_is_its_formula():
    model = timm.create_model("binarynet_cifar10", **SMALL).double().eval()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    y, first = x, True
    for index, layer in enumerate([*model.stages, *model.hidden, model.head]):
        if index == len(model.stages):
            y = y.flatten(1)[:, :, None, None]
        signs = y if first else torch.where(y >= 0, 1.0, -1.0).double()
        weight = torch.where(layer.conv.weight >= 0, 1.0, -1.0).double()
        y = nn.functional.conv2d(signs, weight, None, 1, layer.conv.padding)
        y = nn.functional.max_pool2d(y, 2) if hasattr(layer, "pool") else y
        y, first = layer.norm(y).clamp(-1, 1) if layer is not model.head else layer.norm(y), False
    torch.testing.assert_close(model(x), y.flatten(1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["batch", "shift"])
@pytest.mark.parametrize("binary", [True, False])
def test_gradients_reach_every_layer(norm, binary):
    model = timm.create_model("binarynet_cifar10", binary=binary, norm=norm, **SMALL)
    (model(torch.randn(8, 3, 16, 16)) * torch.randn(8, 10)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in model.parameters())
    assert sum(isinstance(m, ShiftBatchNorm2d) for m in model.modules()) == (6 if norm == "shift" else 0)


def test_latent_weights_fill_the_range_stay_in_it_and_learn_at_glorots_rate():
    model = timm.create_model("binarynet_cifar10", **SMALL)
    units = [m for m in model.modules() if isinstance(m, QuantizedConv2d)]
    assert all(0.9 < float(u.weight.detach().abs().max()) <= 1 for u in units)
    scales = learning_rate_scales(model)
    assert len(scales) == len(units)
    assert scales["stages.1.conv.weight"] == pytest.approx((64 * 2 * 9 / 1.5) ** 0.5)
    for unit in units:
        unit.weight.data.mul_(3)
    constrain(model)
    assert all(float(u.weight.detach().abs().max()) == 1 for u in units)
    repository = timm.create_model("binarynet_vgg_3x", **SMALL)
    assert learning_rate_scales(repository) == {}
    assert learning_rate_scales(timm.create_model("binarynet_cifar10_float", **SMALL)) == {}


def test_dropout_of_the_perceptron_drops_signs():
    model = timm.create_model("binarynet_mnist", hidden=(32, 32, 32))
    assert model.drop.p == 0.2
    assert [m.conv.dropout for m in (*model.hidden, model.head)] == [0.0, 0.5, 0.5, 0.5]
    twin = timm.create_model("binarynet_mnist_float", hidden=(32, 32, 32))
    assert [type(m.conv).__name__ for m in (*twin.hidden, twin.head)] == ["Conv2d"] + ["Sequential"] * 3


def test_stochastic_activations_and_more_bits():
    model = timm.create_model("binarynet_cifar10", stochastic=True, **SMALL)
    x = torch.randn(4, 3, 16, 16)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    wide = timm.create_model("binarynet_cifar10", weight_bits=1, activation_bits=2, gradient_bits=6, **SMALL)
    assert {(m.weight_bits, m.activation_bits) for m in wide.modules() if isinstance(m, QuantizedConv2d)} == {
        (1, 32),
        (1, 2),
    }


@pytest.mark.parametrize("name", ["binarynet_cifar10", "binarynet_resnet18_5x"])
def test_fused_networks_are_packed_and_predict_the_same(name):
    small = SMALL if name == "binarynet_cifar10" else {"widths": (16, 24, 32)}
    model = timm.create_model(name, **small)
    size = 16 if name == "binarynet_cifar10" else 32
    x = torch.randn(32, 3, size, size)
    for _ in range(3):  # statistics of their own
        model(x)
    model.eval()
    fused = convswap.fuse(model, x[:4])
    packed = [m for m in fused.modules() if isinstance(m, PackedBinaryConv2d)]
    assert len(packed) == sum(isinstance(m, QuantizedConv2d) for m in model.modules()) - 1
    with torch.no_grad():
        expected, got = model(x), fused(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(got.argmax(1), expected.argmax(1))


def test_one_epoch_of_mnist_is_learned(data_root):
    from convswap.data import ArrayImages, load_data

    data = load_data("mnist", root=data_root)
    few = ArrayImages(data.train.images[:6000], data.train.labels[:6000])
    data = replace(data, train=few)
    model = timm.create_model("binarynet_mnist_2048", hidden=(256, 256))
    result = fit(model, data, binary_recipe(epochs=2), seed=0, progress=False, device="cpu")
    assert result.test_accuracy > 0.8
    fused = convswap.fuse(model.eval(), torch.randn(2, 1, 28, 28))
    assert torch.equal(evaluate(fused, data).predictions, evaluate(model, data).predictions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"binary": 2}, "binary=2"),
        ({"norm": "layer"}, "norm='layer'.*'batch', 'shift'"),
        ({"binary": False, "weight_bits": 2}, "float twin"),
        ({"weight_bits": 40}, "weight_bits=40"),
        ({"img_size": 4, "stages": module.CIFAR10}, "img_size=4"),
        ({"global_pool": "max"}, "global_pool='max'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("binarynet_cifar10", **arguments)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"images of 20x16.*img_size=16"):
        timm.create_model("binarynet_cifar10", **SMALL)(torch.zeros(2, 3, 20, 16))
