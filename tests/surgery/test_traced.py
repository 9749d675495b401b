"""`torch.jit.trace` of a network with units: one graph, whether gradients are wanted or not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import convswap

UNITS = [name for name in convswap.list_units() if convswap.get_unit(name).replaces == "convolution"]


def network(groups: int) -> nn.Sequential:
    first, second = (nn.Conv2d(8, 8, 3, padding=1, groups=groups) for _ in range(2))
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(inplace=True), second, nn.BatchNorm2d(8))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("form", ["swapped", "fused"])
@pytest.mark.parametrize("unit", UNITS)
def test_a_network_is_traced_with_and_without_gradients(unit: str, form: str) -> None:
    """With gradients torch's own check failed: it traces again without them, and found another graph."""
    torch.manual_seed(0)
    x = torch.randn(1, 8, 12, 12)
    model = network(groups=8 if unit == "fixed" else 1).eval()
    model = convswap.swap(model, unit, where="all", start="fresh", example_input=x).eval()
    if form == "fused":
        model = convswap.fuse(model, x)
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            traced = torch.jit.trace(model, x)
            torch.testing.assert_close(traced(x), model(x))
