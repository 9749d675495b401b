"""timm's GhostNet against the official code's tensors, as it is and with our Ghost unit inside."""

from __future__ import annotations

import timm
import torch
from timm.models.ghostnet import GhostModule, GhostNet
from torch import nn

from convswap.units import GhostConv2d


def with_our_unit(model: nn.Module) -> int:
    """Replace every Ghost module of timm by our unit with its state; returns how many."""
    found = [(path, child) for path, child in model.named_modules() if isinstance(child, GhostModule)]
    for path, child in found:
        conv, relu = child.primary_conv[0], isinstance(child.primary_conv[2], nn.ReLU)
        unit = GhostConv2d(conv.in_channels, child.out_chs, 1, relu=relu, dtype=conv.weight.dtype)
        unit.load_state_dict(child.state_dict(), strict=True)
        model.set_submodule(path, unit.train(child.training))
    return len(found)


def test_golden_network(shared):
    reference = torch.load(shared / "golden" / "ghost" / "case_ghostnet_w0.2.pt", weights_only=True)
    config = reference["config"]
    blocks = timm.create_model("ghostnet_100", num_classes=1).cfgs
    model = GhostNet(blocks, width=config["width"], num_classes=config["num_classes"], drop_rate=config["dropout"])
    model.double().eval().load_state_dict(reference["state_dict"], strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(reference["input"]), reference["output"], rtol=0, atol=1e-9)
        assert with_our_unit(model) == 32
        torch.testing.assert_close(model(reference["input"]), reference["output"], rtol=0, atol=1e-9)


def test_our_unit_in_ghostnet_changes_nothing():
    torch.manual_seed(0)
    model = timm.create_model("ghostnet_050", num_classes=3).double().eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        count = sum(p.numel() for p in model.parameters())
        assert with_our_unit(model) == 32
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    assert sum(p.numel() for p in model.parameters()) == count
