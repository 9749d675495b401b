"""The CIFAR ResNets against the paper's counts and the reference's tensors."""

import copy

import pytest
import timm
import torch
from golden_block import check_block
from torch.utils.flop_counter import FlopCounterMode

import convswap.models.cifar_resnet as module
from convswap.models import create_model, load_weights
from convswap.models.cifar_resnet import BasicBlock, CifarResNet, PadShortcut

COUNTS = {  # depth: parameters, multiply-adds at 32x32
    20: (269_722, 40_551_040),
    32: (464_154, 68_862_592),
    44: (658_586, 97_174_144),
    56: (853_018, 125_485_696),
    110: (1_727_962, 252_887_680),
    1202: (19_421_274, 2_829_238_912),
}
NAMES = [f"cifar_resnet{depth}{suffix}" for depth in (8, *COUNTS) for suffix in ("", "_b")]


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("depth", COUNTS)
def test_counts_to_the_digit(depth):
    with torch.device("meta"):
        model = timm.create_model(f"cifar_resnet{depth}").eval()
        image = torch.empty(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert (count_parameters(model), counter.get_total_flops() // 2) == COUNTS[depth]


@pytest.mark.parametrize("depth", COUNTS)
def test_option_b_adds_two_projections(depth):
    with torch.device("meta"):
        model = timm.create_model(f"cifar_resnet{depth}_b")
    assert count_parameters(model) == COUNTS[depth][0] + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


@pytest.mark.parametrize("name", NAMES)
def test_registered_with_timm(name):
    assert name in timm.list_models("cifar_resnet*")
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1)
        assert model(torch.empty(2, 1, 32, 32)).shape == (2, 7)
    assert model.num_features == 64
    assert model.default_cfg["input_size"] == (3, 32, 32)
    assert hasattr(module, name)


@pytest.mark.parametrize("case", ["case_basic_A_8_16_s2", "case_basic_B_8_16_s2"])
def test_block_golden(golden, case):
    reference = golden("resnet")[case]
    config = reference["config"]
    option = config["cls"][-1]  # "BasicBlock option A"
    block = BasicBlock(config["in_planes"], config["planes"], config["stride"], shortcut=option)
    check_block(block.double(), reference)


@pytest.mark.parametrize("depth", [20, 56])
def test_pretrained_logits_golden(golden, shared, depth):
    reference = golden("resnet")[f"pretrained_resnet{depth}_logits"]
    model = create_model(f"cifar_resnet{depth}", num_classes=10)
    assert load_weights(model, shared / "data" / "weights" / reference["config"]["weights"]) == []
    with torch.no_grad():
        logits = model.double().eval()(reference["input"])
    torch.testing.assert_close(logits, reference["output"], rtol=1e-9, atol=1e-9)


def test_pretrained_through_timm(shared):
    file = str(shared / "data" / "weights" / "resnet20-12fca82f.th")
    model = timm.create_model("cifar_resnet20", pretrained=True, pretrained_cfg_overlay={"file": file})
    reference = create_model("cifar_resnet20", num_classes=10, weights=file)
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=0, atol=0)


def test_pretrained_accuracy_on_real_images(shared, data_root):
    from convswap.data import load_data

    data = load_data("cifar10", root=data_root, download=False)
    model = create_model(
        "cifar_resnet20", num_classes=10, weights=shared / "data" / "weights" / "resnet20-12fca82f.th"
    ).eval()
    cfg = model.default_cfg  # the weights want ImageNet's constants
    mean, std = (torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        logits = model((data.test.images[:500].float() / 255 - mean) / std)
    accuracy = (logits.argmax(1) == data.test.labels[:500]).float().mean().item()
    assert 0.90 < accuracy < 0.95


@pytest.mark.parametrize(("wide", "stride"), [(16, 2), (11, 2), (8, 3), (12, 1)])
def test_pad_shortcut_against_a_loop(wide, stride):
    image = torch.randn(2, 8, 7, 9)
    output = PadShortcut(8, wide, stride)(image)
    expected = torch.zeros(2, wide, -(-7 // stride), -(-9 // stride))
    for channel in range(8):
        expected[:, channel + (wide - 8) // 2] = image[:, channel, ::stride, ::stride]
    assert torch.equal(output, expected)


def test_pad_shortcut_keeps_channels_last_and_refuses_to_shrink():
    image = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last)
    shortcut = PadShortcut(16, 32, 2)
    assert shortcut(image).is_contiguous(memory_format=torch.channels_last)
    assert not list(shortcut.parameters())
    with pytest.raises(ValueError, match="out_channels=8"):
        PadShortcut(16, 8)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_resnet8_b"])
def test_exports_compares_and_copies(name):
    model = create_model(name, num_classes=10).eval()
    image = torch.randn(2, 3, 32, 32)
    expected = model(image)
    torch.testing.assert_close(torch.export.export(model, (image,)).module()(image), expected)
    torch.testing.assert_close(copy.deepcopy(model)(image), expected)
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    features = channels_last.forward_features(image.to(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)


def test_every_parameter_gets_a_gradient():
    model = create_model("cifar_resnet8_b", num_classes=3)
    model(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_initialisation_is_fan_in_normal():
    model = create_model("cifar_resnet20", num_classes=10)
    weight = model.layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    assert model.linear.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.15)


def test_classifier_interface():
    model = CifarResNet(1)
    image = torch.randn(1, 3, 32, 32)
    assert model.get_classifier() is model.linear
    model.reset_classifier(5)
    assert model(image).shape == (1, 5)
    assert model.forward_head(model.forward_features(image), pre_logits=True).shape == (1, 64)
    model.reset_classifier(0)
    assert model(image).shape == (1, 64)
    model.reset_classifier(0, "")
    assert model(image).shape == (1, 64, 8, 8)
    with pytest.raises(ValueError, match="num_classes=3 needs global_pool"):
        model.reset_classifier(3)
    with pytest.raises(ValueError, match="'avg', ''"):
        model.reset_classifier(3, "max")
    with pytest.raises(ValueError, match="'A', 'B'"):
        CifarResNet(1, shortcut="C")


def test_features_only():
    model = timm.create_model("cifar_resnet8", features_only=True, out_indices=(0, 1, 2))
    shapes = [tuple(feature.shape[1:]) for feature in model(torch.randn(1, 3, 32, 32))]
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
