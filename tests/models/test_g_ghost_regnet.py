"""G-Ghost-RegNetX against the official code's tensors; its sizes stand in `published/ghost.json`."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import convswap
from convswap.models.g_ghost_regnet import SIZES, GGhostRegNet
from convswap.units import GGhostStage

SMALL = ((1, 2, 4, 3), (16, 24, 48, 64), 8)


def test_golden(golden):
    reference = golden("ghost")["case_gghost_net"]
    c = reference["config"]
    model = GGhostRegNet(c["layers"], c["widths"], c["group_width"], num_classes=c["num_classes"]).double().eval()
    model.load_state_dict(reference["state_dict"], strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(reference["input"]), reference["output"], rtol=0, atol=1e-9)
        fused = convswap.fuse(model, reference["input"])
        torch.testing.assert_close(fused(reference["input"]), reference["output"], rtol=0, atol=1e-9)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


@pytest.mark.parametrize("size", SIZES)
def test_registered_with_timm_and_ghosted_where_deep_enough(size):
    name = f"g_ghost_regnetx_{size}"
    assert name in timm.list_models("g_ghost_regnetx_*")
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1).eval()
        assert model(torch.empty(2, 1, 64, 64)).shape == (2, 7)
    depths, widths, group_width = SIZES[size]
    ghosted = [isinstance(getattr(model, f"layer{i}"), GGhostStage) for i in (1, 2, 3, 4)]
    assert ghosted == [False, depths[1] > 2, True, depths[3] > 2]
    assert model.layer3.group_width == group_width
    assert model.num_features == widths[-1]


def test_features_head_and_training():
    model = GGhostRegNet(*SMALL, num_classes=5)
    features = model.forward_features(torch.randn(2, 3, 64, 48))
    assert features.shape == (2, 64, 2, 2)
    assert model.forward_head(features, pre_logits=True).shape == (2, 64)
    model(torch.randn(2, 3, 64, 48)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    model.reset_classifier(0, "")
    assert model(torch.randn(2, 3, 64, 48)).shape == (2, 64, 2, 2)
    with pytest.raises(ValueError, match="num_classes=3 needs global_pool='avg'"):
        model.reset_classifier(3)


def test_options_reach_the_stages():
    model = GGhostRegNet(*SMALL, mix=False, cheap_ratio=0.25)
    assert (model.layer3.mix, model.layer3.cheap_ratio) == (False, 0.25)
    with pytest.raises(ValueError, match=r"depths=\(1, 2\) is not allowed; give four"):
        GGhostRegNet((1, 2), (16, 24, 48, 64), 8)
    with pytest.raises(ValueError, match="group_width=7 is not allowed for 48 channels"):
        GGhostRegNet((1, 2, 4, 3), (14, 14, 48, 56), 7)
