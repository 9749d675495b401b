"""Our counts against what others printed: torchvision's networks, attention among them, and binary networks' OPs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convswap.measure.costs.model import Counts, cost

torchvision = pytest.importorskip("torchvision")

# Image size, "GFLOPS" (10^9 multiply-accumulates) and parameters, from the metadata of torchvision's ImageNet weights.
PUBLISHED: dict[str, tuple[int, float, int]] = {
    "alexnet": (224, 0.714, 61_100_840),
    "convnext_tiny": (224, 4.456, 28_589_128),
    "densenet121": (224, 2.834, 7_978_856),
    "efficientnet_v2_s": (384, 8.366, 21_458_488),
    "inception_v3": (299, 5.713, 27_161_264),
    "maxvit_t": (224, 5.558, 30_919_624),
    "mnasnet1_0": (224, 0.314, 4_383_312),
    "resnet18": (224, 1.814, 11_689_512),
    "resnet50": (224, 4.089, 25_557_032),
    "resnext50_32x4d": (224, 4.230, 25_028_904),
    "squeezenet1_0": (224, 0.819, 1_248_424),
    "swin_t": (224, 4.491, 28_288_354),
    "swin_v2_t": (256, 5.940, 28_351_570),
    "vgg16_bn": (224, 15.470, 138_365_992),
    "vit_b_16": (224, 17.564, 86_567_656),
    "vit_l_32": (224, 15.378, 306_535_400),
    "wide_resnet50_2": (224, 11.398, 68_883_240),
}


def network(name: str) -> nn.Module:
    skipped = {"init_weights": False} if name in ("inception_v3", "vgg16_bn") else {}
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **skipped)


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_of_torchvision(name: str) -> None:
    size, billions, parameters = PUBLISHED[name]
    found = cost(network(name), torch.zeros(1, 3, size, size, device="meta"), fused=False)
    assert round(found.counts.macs / 1e9, 3) == billions
    assert found.counts.flops == 2 * found.counts.macs
    assert found.parameters.total == parameters


def test_ops_of_a_binary_resnet18() -> None:
    """Bi-Real Net-18 (arXiv:1808.00278): 1.63 x 10^8, within 1 %; first layer, shortcuts, classifier are not binary."""
    found = cost(network("resnet18"), torch.zeros(1, 3, 224, 224, device="meta"), fused=False)
    real = sum(
        found.modules[path].macs
        for path in ("conv1", "layer2.0.downsample", "layer3.0.downsample", "layer4.0.downsample", "fc")
    )
    counts = Counts(macs_float=real, macs_binary=found.counts.macs - real)
    assert real == 112 * 112 * 64 * 147 + 28 * 28 * 64 * 128 + 14 * 14 * 128 * 256 + 7 * 7 * 256 * 512 + 512_000
    assert counts.macs == found.counts.macs
    assert counts.ops == pytest.approx(1.63e8, rel=0.01)
    assert Counts(macs_float=3, macs_int8=4, macs_binary=128).ops == 3 + 4 + 2
