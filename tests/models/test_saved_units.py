"""Every registered unit, swapped and fused, comes back from disk computing the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import convswap


@pytest.mark.parametrize("unit", convswap.list_units())
@pytest.mark.parametrize("start", ["warm", "fresh"])
def test_round_trip(unit: str, start: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    depthwise = "depthwise" in convswap.get_unit(unit).default_where
    stem = convswap.get_unit(unit).replaces == "stem"
    host = "resnet18" if stem else "mobilenetv2_035" if depthwise else "cifar_resnet20"
    model = convswap.create_model(host, num_classes=5).eval()
    generator = torch.Generator().manual_seed(1)
    swapped = convswap.swap(model, unit, start=start)
    assert any(type(module) is convswap.get_unit(unit).cls for module in swapped.modules()) or unit == "conv"
    with torch.no_grad():
        for module in swapped.modules():
            if isinstance(module, nn.BatchNorm2d):  # some negative: signs are part of a fused form
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
                module.running_mean.copy_(torch.randn(module.weight.shape, generator=generator) * 0.1)
    x = torch.randn(2, 3, 32, 32, generator=generator)
    for each in (swapped, convswap.fuse(swapped, x)):
        loaded = convswap.load(convswap.save(each, tmp_path / "m.safetensors"))
        torch.testing.assert_close(loaded(x), each(x), rtol=0, atol=0)
