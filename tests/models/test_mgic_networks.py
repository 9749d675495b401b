"""MGIC-ResNet and MGIC-MobileNetV3: sizes by independent sums, timm's interface, and that they train and fuse."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

import convswap
import convswap.models.mgic_mobilenetv3 as mobilenet
import convswap.models.mgic_resnet as resnet
from convswap.errors import UsageError
from convswap.models import create_model
from convswap.models.mgic_mobilenetv3 import MGICMobileNetV3
from convswap.models.mgic_resnet import MGICResNet
from convswap.surgery.macs import count_macs
from convswap.units import MGICBlock

IMAGENET = [f"mgic_resnet{depth}_g{size}" for depth in (34, 50) for size in (16, 32, 64)]
CIFAR = ["cifar_mgic_resnet16", "cifar_mgic_resnet20", "cifar_mgic_resnet56"]
MOBILE = [f"mgic_mobilenetv3_{size}_g{group}" for size in ("large", "small") for group in (8, 16, 32, 64)]


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def basic_weights(c: int, s: int) -> tuple[int, int]:
    """(convolution weights, BatchNorm parameters) of one basic block with s_g = s_c = s, written from the note."""
    convolved = norms = 0
    while True:
        convolved += 2 * 9 * c * min(s, c) + c * min(s, c)
        norms += 6 * c
        c //= 2
        if c < s:
            return convolved + 18 * c * c, norms + 4 * c


@pytest.mark.parametrize("size", [16, 32, 64])
def test_resnet34_by_hand(size):
    stem, classifier = 64 * 3 * 49, 512 * 1000
    parameters = stem + 2 * 64 + classifier + 1000
    macs = stem * 112**2 + classifier
    for index, (width, repeat) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
        convolved, norms = basic_weights(width, size)
        change = 9 * width if index else 0
        parameters += repeat * (convolved + norms) + change + (2 * width if index else 0)
        macs += (repeat * convolved + change) * (56 >> index) ** 2
    with torch.device("meta"):
        model = timm.create_model(f"mgic_resnet34_g{size}")
    assert (count(model), count_macs(model, torch.zeros(1, 3, 224, 224))) == (parameters, macs)


def mobilenet_weights(entering, mid, c, kernel, gate, stride, s):
    """Parameters of one block of MGIC-MobileNetV3 with s_g = s_c = s, written from the note."""
    total = entering * c if stride != 1 or entering != c else 0

    def residual(c, mid, groups):
        squeezed = max(8, (mid // 4 + 4) // 8 * 8)
        squeezed += 8 if squeezed < 0.9 * (mid // 4) else 0
        expand = 0 if mid == c else c * mid // groups + 2 * mid
        excite = 2 * mid * squeezed + squeezed + mid if gate else 0
        return expand + kernel**2 * mid + 2 * mid + excite + mid * c // groups + 2 * c

    while True:
        groups = int(max(c / s, 1))
        while c % groups or mid % groups:
            groups -= 1
        total += residual(c, mid, groups) + 2 * (c * (c // 2) // groups) + 2 * c + 2 * (c // 2)
        stop, c, mid = c / 2 < s, c // 2, mid // 2
        if stop:
            return total + residual(c, mid, 1)


LARGE = [  # (k, expanded, c, squeeze-excite, stride), MobileNetV3, table 1
    (3, 16, 16, 0, 1), (3, 64, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2), (5, 120, 40, 1, 1), (5, 120, 40, 1, 1),
    (3, 240, 80, 0, 2), (3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1), (3, 480, 112, 1, 1),
    (3, 672, 112, 1, 1), (5, 672, 160, 1, 2), (5, 960, 160, 1, 1), (5, 960, 160, 1, 1),
]  # fmt: skip
SMALL = [  # table 2
    (3, 16, 16, 1, 2), (3, 72, 24, 0, 2), (3, 88, 24, 0, 1), (5, 96, 40, 1, 2), (5, 240, 40, 1, 1), (5, 240, 40, 1, 1),
    (5, 120, 48, 1, 1), (5, 144, 48, 1, 1), (5, 288, 96, 1, 2), (5, 576, 96, 1, 1), (5, 576, 96, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("group_size", [8, 16, 32, 64])
@pytest.mark.parametrize(("size", "table", "expanded"), [("large", LARGE, 1280), ("small", SMALL, 1024)])
def test_mobilenet_by_hand(size, table, expanded, group_size):
    entering, total = 16, 3 * 16 + 2 * 16
    for kernel, mid, c, gate, stride in table:
        total += mobilenet_weights(entering, mid, c, kernel, gate, stride, group_size)
        entering = c
    total += entering * entering + 2 * entering + (entering + 1) * expanded + (expanded + 1) * 1000
    with torch.device("meta"):
        model = timm.create_model(f"mgic_mobilenetv3_{size}_g{group_size}")
        wider = timm.create_model(f"mgic_mobilenetv3_{size}_g{group_size}", stem="imagenet", head="imagenet")
    assert count(model) == total
    assert count(wider) == total + 16 * 3 * 8  # a 3x3 instead of a 1x1 stem
    image = torch.zeros(1, 3, 64, 64)
    assert count_macs(wider, image) < 0.4 * count_macs(model, image)


@pytest.mark.parametrize("name", IMAGENET + CIFAR + MOBILE)
def test_registered_with_timm(name):
    assert name in timm.list_models("*mgic*")
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1)
        assert model(torch.empty(2, 1, 64, 64)).shape == (2, 7)
        assert model.forward_head(model.forward_features(torch.empty(2, 1, 64, 64)), pre_logits=True).shape == (
            2,
            model.num_features,
        )
    side = 32 if name.startswith("cifar") else 224
    assert model.default_cfg["input_size"] == (3, side, side)
    assert hasattr(resnet if "resnet" in name else mobilenet, name)
    assert any(isinstance(module, MGICBlock) for module in model.modules())


def test_options_reach_the_blocks():
    with torch.device("meta"):
        model = create_model("mgic_resnet34_g32", num_classes=3, coarse_channels=16, coarsest="paper", quirks="plain")
        other = create_model("mgic_mobilenetv3_small_g8", num_classes=3, coarsest="paper")
    block = model.layer4[0]
    assert (block.group_size, block.coarse_channels, block.coarsest, block.quirks) == (32, 16, "paper", "plain")
    assert [level.channels for level in block.levels.fine] == [512, 256, 128, 64, 32]
    assert block.levels.coarse.channels == 16
    assert {(b.coarsest, b.quirks) for b in other.modules() if isinstance(b, MGICBlock)} == {("paper", "code")}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cifar_mgic_resnet20", {}),
        ("mgic_mobilenetv3_small_g64", {"stem": "imagenet", "head": "imagenet"}),
    ],
)
def test_trains_exports_and_fuses(name, arguments):
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, **arguments).double()
    image = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    model(image).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    model.eval()
    expected = model(image)
    exported = torch.export.export(model, (image,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    torch.testing.assert_close(exported(image[:2]), expected[:2])
    torch.testing.assert_close(copy.deepcopy(model)(image[:1]), expected[:1])  # a batch of one is no special case
    fused = convswap.fuse(model, image)
    torch.testing.assert_close(fused(image), expected, rtol=1e-8, atol=1e-8)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


def test_the_official_head_takes_the_largest_response():
    model = create_model("mgic_mobilenetv3_small_g8", num_classes=2).eval()
    usual = create_model("mgic_mobilenetv3_small_g8", num_classes=2, head="imagenet").eval()
    features = torch.randn(2, 96, 3, 4)
    expanded = torch.einsum("nchw,oc->nohw", features, model.conv_head.weight[:, :, 0, 0])
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), expanded.clamp(min=0).amax((2, 3)))
    pooled = features.mean((2, 3)) @ usual.conv_head.weight[:, :, 0, 0].T
    expected = pooled * (pooled + 3).clamp(0, 6) / 6
    torch.testing.assert_close(usual.forward_head(features, pre_logits=True), expected)


def test_mobilenet_initialisation_is_the_official_one():
    model = create_model("mgic_mobilenetv3_large_g16", num_classes=1000)
    assert model.conv_head.weight.std().item() == pytest.approx((2 / 1280) ** 0.5, rel=0.02)
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not model.conv_head.bias.any()


@pytest.mark.parametrize("model", [MGICResNet((8, 16), (1, 1), (1, 2), stem="cifar"), MGICMobileNetV3("small")])
def test_classifier_interface(model):
    image = torch.randn(2, 3, 32, 32)
    assert model.get_classifier().out_features == 1000
    model.reset_classifier(5)
    assert model(image).shape == (2, 5)
    model.reset_classifier(0)
    assert model(image).shape == (2, model.num_features)
    model.reset_classifier(0, "")
    assert model(image).dim() == 4
    with pytest.raises(ValueError, match="num_classes=3 needs"):
        model.reset_classifier(3)
    with pytest.raises(ValueError, match="global_pool='median'"):
        model.reset_classifier(3, "median")


def test_features_only():
    model = timm.create_model("cifar_mgic_resnet20", features_only=True, out_indices=(0, 1, 2))
    shapes = [tuple(feature.shape[1:]) for feature in model(torch.randn(2, 3, 32, 32))]
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    reductions = [info["reduction"] for info in timm.create_model("mgic_resnet50_g16").feature_info]
    assert reductions == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MGICResNet((8, 16), (1,), (1, 2)), "equally long"),
        (lambda: MGICResNet(block="mobilenet"), "'basic', 'bottleneck'"),
        (lambda: MGICResNet(stem="code"), "'imagenet', 'cifar'"),
        (lambda: MGICMobileNetV3("medium"), "'large', 'small'"),
        (lambda: MGICMobileNetV3(stem="cifar"), "'code', 'imagenet'"),
        (lambda: MGICMobileNetV3(head="max"), "'code', 'imagenet'"),
        (lambda: create_model("mgic_resnet34_g16", num_classes=3, coarsest="mine"), "'code', 'paper'"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(UsageError, match=message):
        make()
