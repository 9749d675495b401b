"""ThreshNet against the authors' layer and the table of its blocks; sizes: `published/threshnet.json`."""

from __future__ import annotations

import pytest
import timm
import torch
from golden_block import check_block
from torch import nn

import convswap
import convswap.models.threshnet as module
from convswap.models import create_model
from convswap.models.hardnet import HarmonicBlock
from convswap.models.threshnet import ThreshLayer, ThreshNet

NAMES = ["threshnet79", "threshnet95"]
BOTH = ["dense", "dense", "dense", "harmonic", "harmonic"]


def test_golden(golden):
    check_block(ThreshLayer(40, 32).double(), golden("threshnet")["case_threshlayer_40_32"])


def blocks(model: nn.Module) -> list[str]:
    return [
        f"{len(m.layers)} harmonic" if isinstance(m, HarmonicBlock) else f"{len(m)} dense"
        for m in model.base
        if isinstance(m, HarmonicBlock) or (isinstance(m, nn.Sequential) and isinstance(m[0], ThreshLayer))
    ]


@pytest.mark.parametrize(("name", "dense"), [("threshnet79", (6, 8, 12)), ("threshnet95", (6, 12, 16))])
@pytest.mark.parametrize("threshold", [256, 272, 287])
def test_the_threshold_gives_both_networks_of_the_paper(name, dense, threshold):
    with torch.device("meta"):
        model = create_model(name, num_classes=10, threshold_channels=threshold)
    assert model.connections == BOTH
    assert blocks(model) == [*(f"{layers} dense" for layers in dense), "16 harmonic", "4 harmonic"]
    convolutions = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    assert convolutions == int(name.removeprefix("threshnet"))


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(63, 0), (64, 1), (127, 1), (128, 2), (192, 3), (287, 3), (288, 4), (480, 5)],
)
def test_from_the_first_block_above_the_threshold_on_all_are_harmonic(threshold, expected):
    """Blocks of `threshnet79` have 64, 128, 192, 288 and 480 input channels."""
    with torch.device("meta"):
        model = create_model("threshnet79", num_classes=10, threshold_channels=threshold)
    assert model.connections == ["dense"] * expected + ["harmonic"] * (5 - expected)


@pytest.mark.parametrize("connection", ["dense", "harmonic", ["harmonic", "dense", "dense", "harmonic", "dense"]])
def test_connection_by_hand(connection):
    with torch.device("meta"):
        model = create_model("threshnet79", num_classes=10, connection=connection).eval()
        assert model(torch.empty(1, 3, 32, 32)).shape == (1, 10)
    assert model.connections == ([connection] * 5 if isinstance(connection, str) else connection)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("stride", "side"), [(2, 1), (1, 4)])
def test_registered_with_timm(name, stride, side):
    assert name in timm.list_models("threshnet*")
    assert hasattr(module, name)
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1, stem_stride=stride)
        image = torch.empty(2, 1, 32, 32)
        assert model(image).shape == (2, 7)
        assert model.forward_features(image).shape == (2, 960, side, side)
    assert model.feature_info[-1]["reduction"] == (16 if stride == 2 else 4) * 2


@pytest.mark.parametrize("unit", ["circle", "ic"])
def test_swaps_saves_and_fuses(unit, tmp_path):
    x = torch.randn(2, 3, 32, 32)
    model = create_model("threshnet79", num_classes=3, layers=[1, 1, 1, 2, 2], transitions=[16, 16, 16, 24, 32])
    swapped = convswap.swap(model.eval(), unit, example_input=x)
    convswap.save(swapped, tmp_path / "model.safetensors")
    torch.testing.assert_close(convswap.load(tmp_path / "model.safetensors")(x), swapped(x), rtol=0, atol=0)
    fused = convswap.fuse(swapped, x)
    torch.testing.assert_close(fused(x), swapped(x), rtol=1e-4, atol=1e-5)
    kept = [path.rpartition(".")[2] for path, m in fused.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert set(kept) == {"norm1"}, "only the norm of a concatenation has no convolution to go into"


def test_trains():
    model = create_model("threshnet79", num_classes=3, layers=[1, 1, 1, 2, 2], transitions=[16, 16, 16, 24, 32])
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"connection": "sparse"}, "connection='sparse'"),
        ({"connection": ["dense"]}, "connection=.*each of the 5 blocks"),
        ({"connection": ["dense"] * 4 + ["auto"]}, "connection=.*one of the last two"),
        ({"threshold_channels": 0}, "threshold_channels=0"),
        ({"stem_stride": 4}, "stem_stride=4"),
        ({"global_pool": ""}, "num_classes=10 needs global_pool='avg'"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        ThreshNet((1, 1, 1, 1, 1), (8, 8, 8, 8, 8), **arguments)
