"""VGG-16 for CIFAR, and Ghost-VGG-16 and Ghost-ResNet-56 made from plain networks; sizes: `published/ghost.json`."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import convswap
import convswap.models.cifar_vgg as module
from convswap.models.cifar_resnet import PadShortcut
from convswap.units import GhostConv2d


@pytest.mark.parametrize("name", ["cifar_vgg16", "cifar_vgg16_h512"])
def test_registered_with_timm(name):
    assert name in timm.list_models("cifar_vgg*")
    assert hasattr(module, name)
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1)
        assert model(torch.empty(2, 1, 32, 32)).shape == (2, 7)
        assert model.forward_features(torch.empty(2, 1, 64, 32)).shape == (2, 512, 2, 1)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert sum(isinstance(m, nn.Linear) for m in model.modules()) == (2 if name.endswith("h512") else 1)


def test_head():
    model = timm.create_model("cifar_vgg16", num_classes=0)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 512)
    model.reset_classifier(0, "")
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 512, 1, 1)
    with pytest.raises(ValueError, match="num_classes=3 needs global_pool='avg'"):
        model.reset_classifier(3)
    with pytest.raises(ValueError, match="hidden=512 is not allowed"):
        timm.create_model("cifar_vgg16", hidden=512)


@pytest.mark.parametrize(("ratio", "cheap_kernel"), [(2, 3), (5, 1)])
def test_ghost_vgg16_rectifies_everywhere_and_keeps_no_norm_of_the_host(ratio, cheap_kernel):
    x = torch.randn(2, 3, 32, 32)
    host = timm.create_model("cifar_vgg16")
    model = convswap.swap(host, "ghost", start="fresh", example_input=x, ratio=ratio, cheap_kernel=cheap_kernel)
    units = [m for m in model.modules() if isinstance(m, GhostConv2d)]
    assert len(units) == 13
    assert all(unit.relu for unit in units)
    inside = {id(m) for unit in units for m in unit.modules()}
    assert not any(isinstance(m, nn.BatchNorm2d) and id(m) not in inside for m in model.modules())
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_ghost_resnet56_rectifies_only_where_no_sum_follows():
    """Note trap 3: a ReLU before the residual addition costs accuracy. The option A shortcut has no convolution."""
    x = torch.randn(2, 3, 32, 32)
    host = timm.create_model("cifar_resnet56")
    model = convswap.swap(host, "ghost", start="fresh", example_input=x, ratio=2, cheap_kernel=1)
    units = {name: m for name, m in model.named_modules() if isinstance(m, GhostConv2d)}
    assert len(units) == 55
    assert all(unit.relu == name.endswith("conv1") for name, unit in units.items())
    assert sum(isinstance(m, PadShortcut) for m in model.modules()) == 2
    assert all(isinstance(m, nn.Identity) for name, m in model.named_modules() if name.split(".")[-1] in ("bn1", "bn2"))
    fused = convswap.fuse(model.eval(), x)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
