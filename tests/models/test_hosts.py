"""`docs/hosts/papers.md`: every unit, by its default placement, stands in the host where its paper puts it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import convswap
from convswap.models import create_model

# Host, classes, image side, unit, options, the places it takes (a list, or how many), parameters afterwards or None.
ROWS: list[tuple[str, int, int, str, dict[str, Any], list[str] | int, int | None]] = [
    ("cifar_resnet20", 10, 32, "minimum_block", {}, ["layer1.0", "layer2.0", "layer3.0"], None),
    ("cifar_resnet20", 10, 32, "minimum_block", {"where": "all"}, 9, None),
    ("pyramid_resnet20", 10, 32, "minimum_block", {}, ["layer1.0", "layer2.0", "layer3.0"], 217_082),
    ("cifar_vgg16_h512", 10, 32, "ghost", {}, 13, None),
    ("regnetx_032", 1000, 64, "g_ghost", {}, ["s2", "s3"], None),
    ("resnet50", 1000, 64, "minimum_block", {}, [f"layer{i}.0" for i in (1, 2, 3, 4)], None),
    ("mobilenetv2_100", 1000, 64, "minimum_block", {}, ["blocks.1.0", "blocks.2.0", "blocks.3.0", "blocks.5.0"], None),
    ("cifar_resnet56", 10, 32, "ghost", {"cheap_kernel": 1}, 55, None),
    ("resnet50", 1000, 64, "ghost", {"where": "!first"}, 52, None),
    (
        "resnext50_32x4d", 1000, 64, "sk", {},
        [f"layer{i}.{b}.conv2" for i, n in enumerate((3, 4, 6, 3), 1) for b in range(n)], 27_479_784,
    ),
    ("torchvision:shufflenet_v2_x1_0", 1000, 64, "sk", {"reduction": 4}, 19, None),
    (
        "cifar_resnet20", 10, 32, "dendritic", {},
        [f"layer{i}.{b}.conv{c}" for i in (1, 2, 3) for b in range(3) for c in (1, 2)], 269_722 + 29_696,
    ),
    ("resnet34", 1000, 64, "mgic", {}, 16, 2_813_096),
    ("resnet50", 1000, 64, "mgic", {"block": "bottleneck"}, 16, 6_117_928),
    ("cifar_resnet20", 10, 32, "mgic", {}, 9, 176_506),
    ("cifar_resnet44", 10, 32, "pide", {}, ["layer1.2", "layer2.2", "layer3.2"], None),
    ("resnet50", 1000, 64, "pide", {"subsample": 4}, [f"layer{i}.2" for i in (1, 2, 3, 4)], None),
    ("resnet18", 1000, 64, "pide", {"where": "same & *.1"}, [f"layer{i}.1" for i in (1, 2, 3, 4)], None),
    ("cifar_resnet44", 10, 32, "hamiltonian", {}, 19, None),
]  # fmt: skip


@pytest.mark.parametrize(("host", "classes", "side", "unit", "options", "places", "parameters"), ROWS, ids=str)
def test_placement(host, classes, side, unit, options, places, parameters):
    model = create_model(host, num_classes=classes)
    plan = convswap.plan_swap(model, unit, start="fresh", example_input=torch.zeros(1, 3, side, side), **options)
    assert not plan.skipped or unit == "g_ghost"  # stages of one or two blocks stay plain, as in the paper
    found = [row.path for row in plan.replacements]
    assert len(found) == places if isinstance(places, int) else found == places
    if parameters is not None:
        assert sum(p.numel() for p in plan.apply().parameters()) == parameters
