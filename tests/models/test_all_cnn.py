"""The all-convolutional networks against the paper's tables and reference tensors; sizes: `published/all_cnn.json`."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import convswap
import convswap.models.all_cnn as module
from convswap.models import create_model
from convswap.models.all_cnn import AllCNN

CIFAR = module._NAMES


def described(model: nn.Module) -> list[str]:
    """Each convolution as kernel/stride:width, each pooling as pool, in order."""
    words = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            words.append(f"{layer.kernel_size[0]}/{layer.stride[0]}:{layer.out_channels}")
        elif isinstance(layer, nn.MaxPool2d):
            words.append("pool")
    return words


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("all_cnn_base_a", ["5/1", "pool"]),
        ("all_cnn_strided_a", ["5/2"]),
        ("all_cnn_conv_pool_a", ["5/1", "3/1", "pool"]),
        ("all_cnn_a", ["5/1", "3/2"]),
        ("all_cnn_base_b", ["5/1", "1/1", "pool"]),
        ("all_cnn_strided_b", ["5/1", "1/2"]),
        ("all_cnn_conv_pool_b", ["5/1", "1/1", "3/1", "pool"]),
        ("all_cnn_b", ["5/1", "1/1", "3/2"]),
        ("all_cnn_base_c", ["3/1", "3/1", "pool"]),
        ("all_cnn_strided_c", ["3/1", "3/2"]),
        ("all_cnn_conv_pool_c", ["3/1", "3/1", "3/1", "pool"]),
        ("all_cnn_c", ["3/1", "3/1", "3/2"]),
    ],
)
def test_layers_are_the_papers(name, block):
    with torch.device("meta"):
        model = create_model(name, num_classes=10)
    expected = [word if word == "pool" else f"{word}:{width}" for width in (96, 192) for word in block]
    assert described(model) == [*expected, "3/1:192", "1/1:192", "1/1:10"]
    assert model.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 192, 8, 8)


@pytest.mark.parametrize(("padded", "side"), [(True, 8), (False, 6)])
def test_the_head_averages_over_what_the_paper_says_if_it_is_not_padded(padded, side):
    with torch.device("meta"):
        model = create_model("all_cnn_c", num_classes=10, head_padding=padded)
        assert model.forward_features(torch.empty(1, 3, 32, 32)).shape[2:] == (side, side)


def test_sizes_inside_the_imagenet_network():
    with torch.device("meta"):
        model = create_model("all_cnn_imagenet", num_classes=1000)
        sides = []
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(lambda _, __, y: sides.append(y.shape[-1]))
        assert model(torch.empty(1, 3, 224, 224)).shape == (1, 1000)
    assert sides == [54, 54, 27, 23, 23, 12, 12, 12, 6, 6, 6, 6]


@pytest.mark.parametrize(("case", "pooling"), [("case_all", "conv"), ("case_base_maxpool", "max")])
def test_golden(golden, case, pooling):
    """The reference is a Sequential of widths 6 and 8 with four classes: its layers in order are ours."""
    reference = golden("allcnn")[case]
    model = AllCNN(pooling=pooling, num_classes=4).double().eval()
    tensors = iter(reference["state_dict"].values())
    for conv in (layer for layer in model.modules() if isinstance(layer, nn.Conv2d)):
        conv.weight, conv.bias = nn.Parameter(next(tensors)), nn.Parameter(next(tensors))
    x = reference["input"].requires_grad_()
    y = model(x)
    torch.testing.assert_close(y, reference["output"], rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(y.gather(1, torch.tensor(reference["config"]["target"])[:, None]).sum(), x)
    torch.testing.assert_close(gradient, reference["gradient"], rtol=1e-9, atol=1e-9)


def test_relu_of_the_last_convolution():
    model = create_model("all_cnn_c", num_classes=4, class_relu=True).eval()
    x = torch.randn(2, 3, 16, 16)
    maps = model.classifier(model.forward_features(x))
    assert maps.min() < 0
    torch.testing.assert_close(model(x), maps.clamp(min=0).mean((2, 3)))


def test_dropout_stands_where_the_paper_has_it():
    model = create_model("all_cnn_c", num_classes=4)
    assert [(path, m.p) for path, m in model.named_modules() if isinstance(m, nn.Dropout)] == [
        ("input_drop", 0.2),
        ("stages.0.drop", 0.5),
        ("stages.1.drop", 0.5),
    ]


@pytest.mark.parametrize("name", [*CIFAR, "all_cnn_imagenet"])
def test_registered_with_timm(name):
    assert name in timm.list_models("all_cnn*")
    assert hasattr(module, name)
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1)
        side = 224 if name.endswith("imagenet") else 32
        image = torch.empty(2, 1, side, side)
        features = model.forward_features(image)
        assert model(image).shape == (2, 7)
        model.reset_classifier(0)
        assert model(image).shape == (2, model.num_features) == (2, features.shape[1])
    assert [info["num_chs"] for info in model.feature_info][-1] == (384 if side == 224 else 192)
    assert [info["reduction"] for info in model.feature_info] == ([8, 16, 32] if side == 224 else [2, 4])


@pytest.mark.parametrize("unit", ["circle", "ic"])
def test_swaps_saves_and_fuses(unit, tmp_path):
    x = torch.randn(2, 3, 16, 16)
    model = create_model("all_cnn_c", num_classes=3).eval()
    swapped = convswap.swap(model, unit, example_input=x)
    convswap.save(swapped, tmp_path / "model.safetensors")
    torch.testing.assert_close(convswap.load(tmp_path / "model.safetensors")(x), swapped(x), rtol=0, atol=0)
    torch.testing.assert_close(convswap.fuse(swapped, x)(x), swapped(x), rtol=1e-4, atol=1e-5)


def test_trains():
    model = create_model("all_cnn_a", num_classes=3)
    model(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"base": "d"}, "base='d'"),
        ({"pooling": "avg"}, "pooling='avg'"),
        ({"base": "imagenet", "pooling": "max"}, "pooling='max'"),
        ({"head_padding": 1.5}, "head_padding=1.5"),
        ({"class_relu": "yes"}, "class_relu='yes'"),
        ({"global_pool": ""}, "num_classes=10 needs global_pool='avg'"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        AllCNN(**arguments)
