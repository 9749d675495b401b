"""Constant kernels in the depthwise layers of networks that others built: `swap(model, "fixed")`."""

import pytest
import timm
import torch
import torchvision
from torch import nn

import convswap
from convswap.units import FixedConv2d
from convswap.units.vgnet import banks as fixed_banks

HOSTS = {  # the network, its 3x3 depthwise convolutions, those of them that stride
    "torchvision mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=5), 17, 4),
    "torchvision shufflenet_v2": (lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=5), 19, 6),
    "torchvision efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(num_classes=5), 7, 2),
    "timm mobilenetv2_100": (lambda: timm.create_model("mobilenetv2_100", num_classes=5), 17, 4),
    "timm efficientnet_b0": (lambda: timm.create_model("efficientnet_b0", num_classes=5), 7, 2),
}


@pytest.mark.parametrize("host", HOSTS)
def test_the_depthwise_layers_become_constant(host):
    make, layers, strided = HOSTS[host]
    model = make().eval()
    depthwise = {
        path: conv
        for path, conv in model.named_modules()
        if isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1 and conv.kernel_size == (3, 3)
    }
    plan = convswap.plan_swap(model, "fixed")
    assert [row.path for row in plan.replacements] == list(depthwise)
    assert (len(plan.replacements), len(plan.skipped)) == (layers, 0)
    assert all(row.start == "none" for row in plan.replacements)
    swapped = plan.apply()
    banks = [fixed_banks.resolve(swapped.get_submodule(path).bank, conv.stride) for path, conv in depthwise.items()]
    assert banks.count("gaussian") == strided
    assert banks.count("edge_gaussian") == layers - strided
    saved = sum(conv.weight.numel() for conv in depthwise.values())
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, swapped))
    assert before - after == saved
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert swapped(x).shape == (2, 5)
        fused = convswap.fuse(swapped, x)
        torch.testing.assert_close(fused(x), swapped(x), rtol=1e-3, atol=1e-3)
    assert not any(isinstance(unit, FixedConv2d) for unit in fused.modules())


def test_only_the_pointwise_layers_train():
    model = convswap.swap(torchvision.models.shufflenet_v2_x0_5(num_classes=5), "fixed")
    before = {path: unit.weight.clone() for path, unit in model.named_modules() if isinstance(unit, FixedConv2d)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    for path, weight in before.items():
        assert torch.equal(model.get_submodule(path).weight, weight)


def test_strided_layers_of_any_size_can_blur_alone():
    model = torchvision.models.efficientnet_b0(num_classes=5)
    plan = convswap.plan_swap(model, "fixed", where="depthwise & strided")
    kernels = [plan.apply().get_submodule(row.path).kernel_size for row in plan.replacements]
    assert kernels == [(3, 3), (5, 5), (3, 3), (5, 5)]
