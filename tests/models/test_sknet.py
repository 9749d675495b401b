"""SKNets: their counts, timm's SKNet-50 with the same weights, and the classifier interface."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

import convswap
from convswap.models import create_model
from convswap.models.sknet import SKNet
from convswap.surgery.macs import count_macs
from convswap.units import FusedSelectiveKernel, SelectiveKernelConv2d, with_marks, without_marks

# Counted by executing the official prototxt files; sknet101 follows the paper's rule instead, 49,280 more.
COUNTS = {
    "sknet50": (27_479_784, 4_462_710_784),
    "sknet101": (48_736_040, 8_448_724_992),
    "sknet101_released": (48_686_760, 8_448_675_840),
}
TINY = {"repeats": (1, 2), "widths": (8, 16), "outputs": (16, 32), "groups": 4, "num_classes": 5}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_counts_to_the_digit(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=1000)
    assert (parameters(model), count_macs(model, torch.empty(1, 3, 224, 224))) == COUNTS[name]


def test_attention_widths_are_those_of_the_table():
    with torch.device("meta"):
        models = [create_model(name, num_classes=1000) for name in ("sknet50", "sknet101_released", "cifar_sknet29")]
    widths = [
        [getattr(model, stage)[-1].conv2.attention.reduce.out_channels for stage in model.stages] for model in models
    ]
    assert widths == [[32, 32, 32, 64], [32, 16, 32, 64], [32, 64, 128]]


def test_swapping_resnext_gives_the_papers_network():
    """The unit takes over the BatchNorm that followed the grouped 3x3 convolution."""
    host = timm.create_model("resnext50_32x4d")
    plan = convswap.plan_swap(host, "sk", start="fresh", example_input=torch.zeros(1, 3, 64, 64))
    assert [row.path for row in plan.replacements] == [
        f"layer{stage}.{block}.conv2" for stage, depth in enumerate((3, 4, 6, 3), 1) for block in range(depth)
    ]
    swapped = plan.apply()
    assert parameters(swapped) == COUNTS["sknet50"][0]
    assert swapped.layer1[0].conv2.relu


def test_is_timms_skresnext50_with_the_same_weights():
    torch.manual_seed(0)
    theirs, ours = timm.create_model("skresnext50_32x4d").double(), create_model("sknet50", num_classes=1000).double()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    named = zip(without_marks(ours.state_dict()), theirs.state_dict().values(), strict=True)
    ours.load_state_dict(with_marks(ours, dict(named)))
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-9, atol=1e-9)


def test_caffes_pool_has_the_same_sizes_on_a_shifted_grid():
    symmetric, ceil = SKNet(**TINY).eval(), SKNet(**TINY, pool="ceil").eval()
    ceil.load_state_dict(symmetric.state_dict())
    image = torch.randn(1, 3, 64, 64)
    first, second = symmetric.forward_features(image), ceil.forward_features(image)
    assert first.shape == second.shape == (1, 32, 8, 8)
    assert not torch.allclose(first, second)
    x = torch.arange(36.0).view(1, 1, 6, 6)
    assert ceil.maxpool(x)[0, 0].tolist() == [[14, 16, 17], [26, 28, 29], [32, 34, 35]]


def test_initialisation_is_the_official_solvers():
    torch.manual_seed(1)
    model = create_model("cifar_sknet29", num_classes=10)
    block = model.layer2[1]
    assert block.conv1.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert block.conv2.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.02)
    assert block.conv2.attention.select.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert model.linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert model.linear.bias.eq(0).all()
    momenta = {m.momentum for m in SKNet(**TINY).modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.05}


def test_every_parameter_gets_a_gradient_and_a_batch_of_one_is_refused():
    torch.manual_seed(2)
    model = SKNet(**TINY, stem="cifar")
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    with pytest.raises(ValueError, match="batch size of 1"):
        model(torch.randn(1, 3, 16, 16))


def test_exports_copies_fuses_and_keeps_channels_last():
    torch.manual_seed(3)
    model = SKNet(**TINY, stem="cifar").eval()
    image = torch.randn(2, 3, 16, 16)
    expected = model(image)
    torch.testing.assert_close(torch.export.export(model, (image,)).module()(image), expected)
    torch.testing.assert_close(copy.deepcopy(model)(image), expected)
    fused = convswap.fuse(model, image)
    torch.testing.assert_close(fused(image), expected)
    assert sum(isinstance(m, FusedSelectiveKernel) for m in fused.modules()) == 3
    assert not any(isinstance(m, (nn.BatchNorm2d, SelectiveKernelConv2d)) for m in fused.modules())
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    features = channels_last.forward_features(image.to(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)


def test_classifier_interface():
    model = SKNet(**TINY)
    image = torch.randn(2, 3, 64, 64)
    assert model.get_classifier() is model.linear
    model.reset_classifier(7)
    assert model(image).shape == (2, 7)
    assert model.forward_head(model.forward_features(image), pre_logits=True).shape == (2, 32)
    model.reset_classifier(0)
    assert model(image).shape == (2, 32)
    model.reset_classifier(0, "")
    assert model(image).shape == (2, 32, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stem": "mnist"}, "stem='mnist'.*'imagenet', 'cifar'"),
        ({"pool": "caffe"}, "pool='caffe'.*'symmetric', 'ceil'"),
        ({"widths": (8,)}, "equally long"),
        ({"min_channels": (4, 4, 4)}, "equally long"),
        ({"global_pool": ""}, "num_classes=5 needs global_pool='avg'"),
        ({"global_pool": "max"}, "global_pool='max'"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(arguments, words):
    with pytest.raises(ValueError, match=words):
        SKNet(**(TINY | arguments))


def test_registered_with_timm():
    assert {"sknet50", "sknet101", "sknet101_released", "cifar_sknet29"} <= set(timm.list_models("*sknet*"))
    model = timm.create_model("cifar_sknet29", features_only=True, out_indices=(0, 2), widths=(32, 64, 128))
    shapes = [tuple(feature.shape[1:]) for feature in model.eval()(torch.randn(1, 3, 32, 32))]
    assert shapes == [(256, 32, 32), (1024, 8, 8)]
    assert timm.create_model("cifar_sknet29", in_chans=1, num_classes=3, widths=(32, 64, 128)).conv1.in_channels == 1
