"""HarDNet against the authors' tensors and the table of its layers; sizes: `published/hardnet.json`."""

from __future__ import annotations

import weakref

import pytest
import timm
import torch
from golden_block import check_block
from torch import nn

import convswap
import convswap.models.hardnet as module
from convswap.models import create_model
from convswap.models.hardnet import HarDNet, HarmonicBlock, _from_authors, last_reader, links

NAMES = ["hardnet39ds", "hardnet68", "hardnet68ds", "hardnet85"]
CASES = {
    "case_hardblock_16_gr10_m1.6_n4_keep": {"keep_input": True},
    "case_hardblock_ds_16_gr10_m1.6_n4": {"separable": True},
}


@pytest.mark.parametrize("case", CASES)
def test_golden(golden, case):
    reference = golden("threshnet")[case]
    config = reference["config"]
    block = HarmonicBlock(
        config["in_channels"], config["growth_rate"], config["grmul"], config["n_layers"], **CASES[case]
    )
    check_block(block.double(), reference)


def test_channels_of_the_block_that_the_note_writes_out():
    block = HarmonicBlock(16, 10, 1.7, 8)
    shapes = [(layer.conv.in_channels, layer.conv.out_channels) for layer in block.layers]
    assert shapes == [(16, 10), (26, 18), (18, 10), (44, 28), (28, 10), (38, 18), (18, 10), (72, 50)]
    assert block.out_channels == 90
    assert HarmonicBlock(288, 40, 1.7, 16).out_channels == 654
    assert HarmonicBlock(480, 160, 1.7, 4).out_channels == 782


@pytest.mark.parametrize("layers", [1, 2, 5, 8, 16])
def test_no_layer_is_read_after_its_map_is_gone(layers):
    for layer in range(layers):
        readers = [reader for reader in range(1, layers + 1) if layer in links(reader)]
        assert last_reader(layer, layers) == readers[-1]
    block = HarmonicBlock(4, 4, 1.5, layers).eval()
    assert block(torch.randn(1, 4, 3, 3)).shape == (1, block.out_channels, 3, 3)


def test_inference_lets_go_of_maps_that_nobody_reads_any_more():
    """Layer 2 of 8 is read by 3 and 4 and is no output, so its map is gone when layer 5 runs."""
    block, alive, seen = HarmonicBlock(4, 4, 1.5, 8).eval(), {}, []
    block.layers[1].register_forward_hook(lambda _, __, y: alive.update(two=weakref.ref(y)))
    for layer in block.layers[2:]:
        layer.register_forward_pre_hook(lambda *_: seen.append(alive["two"]() is not None))
    with torch.inference_mode():
        block(torch.randn(1, 4, 3, 3))
    assert seen == [True, True, False, False, False, False]


@pytest.mark.parametrize("name", NAMES)
def test_registered_with_timm(name):
    assert name in timm.list_models("hardnet*")
    assert hasattr(module, name)
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1)
        image = torch.empty(2, 1, 64, 64)
        assert model(image).shape == (2, 7)
        features = model.forward_features(image)
    assert features.shape == (2, model.num_features, 2, 2)
    assert model.feature_info[-1]["reduction"] == 32
    strided = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) == (5 if name.endswith("ds") else 1)
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == (0 if name.endswith("ds") else 4)


def test_the_authors_name_of_the_classifier_is_understood():
    model = create_model("hardnet39ds", num_classes=3)
    theirs = {
        name.replace("linear.", f"base.{len(model.base)}.3."): tensor for name, tensor in model.state_dict().items()
    }
    assert "linear.weight" not in theirs
    assert _from_authors(theirs, model).keys() == model.state_dict().keys()


@pytest.mark.parametrize("unit", ["circle", "ic"])
def test_swaps_saves_and_fuses_to_no_norm_at_all(unit, tmp_path):
    x = torch.randn(2, 3, 64, 64)
    model = HarDNet((8, 8), ((4, 6, 16, True), (4, 8, 24, False)), num_classes=3)
    model._convswap_constructor = {
        "model": "hardnet68",
        "arguments": {"num_classes": 3, "stem": [8, 8], "blocks": [[4, 6, 16, True], [4, 8, 24, False]]},
    }
    swapped = convswap.swap(model.eval(), unit, example_input=x)
    convswap.save(swapped, tmp_path / "model.safetensors")
    torch.testing.assert_close(convswap.load(tmp_path / "model.safetensors")(x), swapped(x), rtol=0, atol=0)
    fused = convswap.fuse(swapped, x)
    torch.testing.assert_close(fused(x), swapped(x), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


def test_trains():
    model = HarDNet((8, 8), ((4, 6, 16, True), (4, 8, 24, False)), num_classes=3, separable=True)
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"separable": "no"}, "separable='no'"), ({"global_pool": ""}, "num_classes=1000 needs global_pool='avg'")],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        HarDNet((8, 8), ((4, 6, 16, True),), **arguments)
