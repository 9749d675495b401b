"""The CIFAR DenseNets, also with minimum units, against published counts and the reference's tensors."""

import pytest
import timm
import torch
from golden_block import check_block
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import convswap
from convswap.models import create_model
from convswap.models.cifar_densenet import CifarDenseNet, DenseBlock, DenseLayer, Transition
from convswap.units import MinimumBlock

COUNTS = {  # name: parameters, multiply-adds at 32x32
    "cifar_densenet_40_12": (1_019_722, 264_812_928),
    "cifar_densenet_100_12": (6_979_642, 1_769_516_448),
    "cifar_densenet_100_24": (27_249_082, 6_889_347_744),
    "cifar_densenet_bc22_12": (71_686, 31_238_322),
    "cifar_densenet_bc58_12": (314_470, 124_358_046),
    "cifar_densenet_bc100_12": (769_162, 287_929_692),
    "cifar_densenet_bc250_24": (15_324_406, 5_418_785_724),
    "cifar_densenet_bc190_40": (25_624_430, 9_301_945_740),
    "cifar_densenet_bc40_36": (1_542_682, 647_298_936),
    "cifar_densenet_bc40_48": (2_733_130, 1_149_867_168),
    "cifar_densenet_bc40_60": (4_261_690, 1_795_836_360),
    "min_densenet_bc22_12": (57_040, 24_826_290),
    "min_densenet_bc58_12": (298_564, 117_793_950),
    "min_densenet_bc100_12": (751_786, 281_188_188),
}


def dense_block(channels, growth, layers):
    block = DenseBlock()
    for index in range(layers):
        block.add_module(f"denselayer{index + 1}", DenseLayer(channels + index * growth, growth))
    return block


BUILDERS = {
    "case_denselayer_bc": lambda: DenseLayer(20, 12),
    "case_denseblock_bc_4": lambda: dense_block(16, 8, 4),
    "case_transition": lambda: Transition(30, 15),
}


@pytest.mark.parametrize("case", BUILDERS)
def test_golden(golden, case):
    check_block(BUILDERS[case]().double(), golden("densenet")[case])


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_registration(name):
    assert name in timm.list_models()
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        image = torch.empty(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert (sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2) == COUNTS[name]
    assert model.default_cfg["input_size"] == (3, 32, 32)
    assert model.get_classifier() is model.classifier


def test_other_classes_and_channels():
    model = create_model("min_densenet_bc22_12", num_classes=7, in_channels=1)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    model.reset_classifier(0)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, model.num_features)


def test_the_first_layer_of_each_block_is_the_minimum_block():
    model = create_model("min_densenet_bc22_12", num_classes=10)
    found = {path: module for path, module in model.named_modules() if isinstance(module, MinimumBlock)}
    assert list(found) == [f"features.denseblock{block}.denselayer1" for block in (1, 2, 3)]
    for module in found.values():
        assert module.out_channels == 12
        assert isinstance(module.shortcut.conv, nn.Conv2d)


def test_a_layer_reads_the_oldest_maps_first():
    block = DenseBlock(nn.Conv2d(2, 3, 1), nn.Conv2d(5, 3, 1))
    image = torch.randn(1, 2, 4, 4)
    first = block[0](image)
    second = block[1](torch.cat([image, first], 1))
    assert torch.equal(block(image), torch.cat([image, first, second], 1))


def test_initialisation():
    torch.manual_seed(0)
    model = create_model("min_densenet_bc100_12", num_classes=10)
    layer = model.features.denseblock3.denselayer2
    assert layer.conv1.weight.std().item() == pytest.approx((2 / 48) ** 0.5, rel=0.05)
    assert layer.conv2.weight.std().item() == pytest.approx((2 / (9 * 12)) ** 0.5, rel=0.05)
    block = model.features.denseblock3.denselayer1
    assert block.shortcut.conv.weight.std().item() == pytest.approx((2 / 12) ** 0.5, rel=0.1)
    assert block.core.left.weight.abs().max() <= 1 / 3
    assert not model.classifier.bias.any()


def test_dropout_follows_every_convolution_but_the_stem():
    model = CifarDenseNet(22, 4, proj_drop_rate=0.9)
    drops = [path for path, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p == 0.9]
    assert len(drops) == 3 * 3 + 2
    image = torch.randn(2, 3, 16, 16)
    assert not torch.equal(model(image), model(image))
    model.eval()
    assert torch.equal(model(image), model(image))


@pytest.mark.parametrize("name", ["cifar_densenet_bc22_12", "min_densenet_bc22_12"])
def test_trains_exports_and_fuses(name):
    model = create_model(name, num_classes=3)
    image = torch.randn(2, 3, 16, 16)
    model(image).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    model.eval()
    expected = model(image)
    torch.testing.assert_close(torch.export.export(model, (image,)).module()(image), expected)
    torch.testing.assert_close(convswap.fuse(model, image)(image), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("depth", "bottleneck", "message"),
    [
        (23, True, "depth=23 is not allowed; give 6 n \\+ 4"),
        (4, False, "depth=4 is not allowed; give 3 n \\+ 4"),
        ("40", True, "depth='40' is not allowed"),
        (40, None, "bottleneck=None is not allowed"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(depth, bottleneck, message):
    with pytest.raises(ValueError, match=message):
        CifarDenseNet(depth, 12, bottleneck=bottleneck)
