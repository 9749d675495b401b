"""Tracing: one graph, whether gradients are wanted or not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import convswap


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_network_is_traced_in_both_modes(gradients: bool, fused: bool) -> None:
    """With gradients torch's own check failed: it traces again without them, and found another graph."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3))
    x = torch.randn(1, 3, 16, 16)
    model = convswap.swap(model.eval(), "ic", where="all", start="fresh", example_input=x).eval()
    if fused:
        model = convswap.fuse(model, x)
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(model, x)
        torch.testing.assert_close(traced(x), model(x))
