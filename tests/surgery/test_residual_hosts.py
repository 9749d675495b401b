"""Removing the residual connections of timm's and torchvision's networks: published costs, and the exported chain."""

from __future__ import annotations

import pytest
import torch
from networks import randomize
from test_residuals import additions
from torch import nn

import convswap
from convswap import SurgeryError, UsageError, plan_remove_residuals

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))

# Measured from the authors' code, in millions: parameters and multiply-accumulates of the network, and of its chain.
PUBLISHED = {
    "rmnet18": (224, "11.690", "1814", "20.176", "3211"),
    "rmnet34": (224, "21.798", "3664", "40.383", "6910"),
    "rmnet20": (32, "0.272", "40.8", "0.502", "77.1"),
    "rmnet56": (32, "0.856", "125.7", "1.665", "247.0"),
    "rmnet110": (32, "1.731", "253.1", "3.410", "501.8"),
    "torchvision:mobilenet_v2": (224, "3.505", "300.8", "7.509", "848.3"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_costs(name: str) -> None:
    """The authors' chain of MobileNetV2 has 7.527 M parameters: slopes and batch norms stay in it."""
    side, *published = PUBLISHED[name]
    model = randomize(convswap.create_model(name, num_classes=10 if side == 32 else 1000))
    plan = plan_remove_residuals(model, torch.randn(1, 3, int(side), int(side)))
    found = (plan.parameters_before, plan.macs_before, plan.parameters_after, plan.macs_after)
    shown = [f"{value / 1e6:.{len(like.partition('.')[2])}f}" for value, like in zip(found, published, strict=True)]
    assert shown == published
    assert not plan.skipped
    assert plan.remaining == 0


def test_the_plan_warns_of_resnet50() -> None:
    model = randomize(convswap.create_model("torchvision:resnet50", num_classes=1000))
    plan = plan_remove_residuals(model, torch.randn(1, 3, 224, 224))
    assert "cost: 4.09 G -> 46.1 G multiply-accumulates an image, 25.6 M -> 277 M parameters" in str(plan)
    assert f"{plan.parameters_after / 1e6:.1f}" == "277.3"


@pytest.mark.parametrize("name", ["resnet18", "torchvision:mobilenet_v2", "seresnet18"])
def test_fuse_leaves_a_chain_without_additions(name: str) -> None:
    model = randomize(convswap.create_model(name, num_classes=10))
    removed, difference, _ = plan_remove_residuals(model, IMAGE).apply_measured()
    assert difference < 1e-12
    fused = convswap.fuse(removed, IMAGE)
    assert additions(model, IMAGE) > 7
    assert additions(fused, IMAGE) == 0
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


@pytest.mark.parametrize("name", ["resnet18d", "resnetv2_50d", "mobilenetv3_small_100", "resnext26ts"])
def test_saved_and_loaded(name: str, tmp_path: object) -> None:
    model = randomize(convswap.create_model(name, num_classes=10))
    removed = convswap.remove_residuals(model, IMAGE)
    again = convswap.load(convswap.save(removed, f"{tmp_path}/chain.safetensors"))
    assert torch.equal(again(IMAGE), removed(IMAGE))


REFUSED = {
    "densenet121": (UsageError, "the model has no residual blocks"),
    "convnext_atto": (SurgeryError, "it computes permute, which no chain of convolutions carries a map through"),
    "res2net50_26w_4s": (SurgeryError, "it computes cat, which no chain of convolutions carries a map through"),
    "repvgg_a0": (SurgeryError, "both of its branches are linear: convswap.fuse makes one convolution of them"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str) -> None:
    kind, reason = REFUSED[name]
    with pytest.raises(kind, match=reason) as refusal:
        plan_remove_residuals(convswap.create_model(name, num_classes=10).eval(), IMAGE)
    assert "\n" not in str(refusal.value)
