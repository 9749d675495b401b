"""Min-Nets and the pyramid networks against the official block's tensors and the published counts."""

import copy

import pytest
import timm
import torch
from golden_block import check_block
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import convswap
from convswap.models import create_model
from convswap.models.min_net import MinNet, PyramidBlock, TailPaddedBasicBlock
from convswap.units import MinimumBlock

COUNTS = {  # name: parameters, multiply-adds at 32x32
    "min_net23": (217_082, 33_981_056),
    "min_net35": (411_962, 62_292_608),
    "min_net47": (606_842, 90_604_160),
    "min_net59": (801_722, 118_915_712),
    "pyramid_resnet20": (270_298, 40_551_040),
    "pyramid_resnet32": (465_178, 68_862_592),
    "pyramid_resnet44": (660_058, 97_174_144),
    "pyramid_resnet56": (854_938, 125_485_696),
}
BLOCK = {"0": "bn1", "1": "conv1", "2": "bn2", "4": "conv2", "5": "bn3"}


def renamed(state):
    """The reference's `block_with_shortcut.block.N.leaf` as ours."""
    names = [key.removeprefix("block_with_shortcut.block.").partition(".") for key in state]
    return {f"{BLOCK[index]}.{leaf}": value for (index, _, leaf), value in zip(names, state.values(), strict=True)}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_to_the_digit(name):
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        image = torch.empty(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert (sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_registered_with_timm(name):
    assert name in timm.list_models()
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1)
        assert model(torch.empty(2, 1, 32, 32)).shape == (2, 7)
    assert model.default_cfg["input_size"] == (3, 32, 32)
    assert model.get_classifier() is model.linear


def test_pyramid_block_golden(golden):
    reference = golden("minnet")["case_pyramidbasic_16_32_s2"]
    ours = {key: renamed(reference[key]) for key in ("state_dict", "grad_params_train")}
    check_block(PyramidBlock(16, 32, 2).double(), {**reference, **ours})


def test_tail_padded_block_keeps_the_first_channels():
    block = TailPaddedBasicBlock(4, 6, 2).eval()
    nn.init.zeros_(block.bn2.weight)  # the branch is 0: what is left is the shortcut
    image = torch.randn(2, 4, 5, 7)
    output = block(image)
    assert torch.equal(output[:, :4], image[:, :, ::2, ::2].relu())
    assert not output[:, 4:].any()


def test_first_block_of_each_stage_is_the_minimum_block():
    model = create_model("min_net35", num_classes=10)
    found = [path for path, module in model.named_modules() if isinstance(module, MinimumBlock)]
    assert found == ["layer1.0", "layer2.0", "layer3.0"]
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [5, 5, 5]
    product = create_model("min_net35", num_classes=10, combine="product")
    assert product.layer1[0].core.combine == "product"
    basic = create_model("min_net35", num_classes=10, basic=True)
    assert isinstance(basic.layer1[1], TailPaddedBasicBlock)


def test_swapping_the_pyramid_network_gives_the_min_net():
    model = create_model("pyramid_resnet20", num_classes=10)
    swapped = convswap.swap(model, "minimum_block", start="fresh", example_input=torch.zeros(1, 3, 32, 32))
    shapes = {name: value.shape for name, value in swapped.state_dict().items()}
    assert shapes == {name: v.shape for name, v in create_model("min_net23", num_classes=10).state_dict().items()}


def test_initialisation_is_that_of_the_authors_code():
    torch.manual_seed(0)
    pyramid = create_model("pyramid_resnet20", num_classes=10)
    assert pyramid.layer3[0].conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    plain = create_model("pyramid_resnet20", num_classes=10, basic=True)
    assert plain.layer3[0].conv1.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.03)
    assert plain.linear.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.15)
    least = create_model("min_net23", num_classes=10)
    bound = 1 / (9 * 64) ** 0.5
    assert bound * 0.99 < least.layer3[1].conv1.weight.abs().max() <= bound
    bound = 1 / 3
    assert bound * 0.95 < least.layer3[0].core.left.weight.abs().max() <= bound


@pytest.mark.parametrize("name", ["min_net23", "pyramid_resnet20"])
def test_every_parameter_gets_a_gradient_and_copies_agree(name):
    model = create_model(name, num_classes=3)
    image = torch.randn(2, 3, 16, 16)
    model(image).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    model.eval()
    expected = model(image)
    torch.testing.assert_close(copy.deepcopy(model)(image), expected)
    exported = torch.export.export(model, (image,)).module()
    torch.testing.assert_close(exported(image), expected)


def test_fuses_as_a_whole():
    model = create_model("min_net23", num_classes=10)
    model(torch.randn(8, 3, 32, 32))
    model.eval()
    image = torch.randn(2, 3, 32, 32)
    fused = convswap.fuse(model, image)
    torch.testing.assert_close(fused(image), model(image), rtol=1e-3, atol=1e-4)
    left = [path for path, module in fused.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == [
        f"layer{stage}.{block}.bn1" for stage in (1, 2, 3) for block in (1, 2)
    ]  # before a padded convolution


def test_features_only():
    model = timm.create_model("min_net23", features_only=True, out_indices=(0, 1, 2))
    shapes = [tuple(feature.shape[1:]) for feature in model(torch.randn(1, 3, 32, 32))]
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_classifier_interface():
    model = MinNet(1)
    image = torch.randn(1, 3, 32, 32)
    assert model.forward_head(model.forward_features(image), pre_logits=True).shape == (1, 64)
    model.reset_classifier(5)
    assert model(image).shape == (1, 5)
    model.reset_classifier(0)
    assert model(image).shape == (1, 64)
    model.reset_classifier(0, "")
    assert model(image).shape == (1, 64, 8, 8)
    with pytest.raises(ValueError, match="num_classes=3 needs global_pool"):
        model.reset_classifier(3)
    with pytest.raises(ValueError, match="'avg', ''"):
        model.reset_classifier(3, "max")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": 0}, "blocks=0 is not allowed; give a whole number of at least 1"),
        ({"blocks": 1, "combine": "max"}, "combine='max' is not allowed"),
        ({"blocks": 1, "basic": "no"}, "basic='no' is not allowed"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        MinNet(**arguments)
