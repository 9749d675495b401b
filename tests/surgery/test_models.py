"""Surgery on real networks: a spread of families; `benchmarks/studies/sweep_models.py` runs them all.

Random weights, random batch-norm statistics (some gammas negative), float64. nf_resnet50 holds no plain convolution
(its 53 are weight-standardised subclasses), so a swap refuses it by name.
"""

from __future__ import annotations

import pytest

from benchmarks.studies.sweep_models import examine

REFUSED = {"nf_resnet50": "subclass of nn.Conv2d"}


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "regnety_002",
        "mobilenetv3_small_100",
        "tf_efficientnet_b0",
        "repvgg_a0",
        "repghostnet_050",
        "repvit_m0_9",
        "nf_resnet50",
        "convnext_atto",
        "edgenext_xx_small",
        "fasternet_t0",
        "starnet_s1",
        "fastvit_t8",
        "torchvision:shufflenet_v2_x0_5",
        "torchvision:squeezenet1_1",
    ],
)
def test_function_is_kept(name: str) -> None:
    row = examine(name)
    for unit in ("circle", "ic"):
        if name in REFUSED:
            assert REFUSED[name] in row[unit]["refused"]
        else:
            assert row[unit]["replaced"] > 0
            assert row[unit]["start"] == ["exact"]
            assert row[unit]["difference"] < 1e-9
    for key in ("fuse",) if name in REFUSED else ("fuse", "fuse_circle"):
        assert row[key]["difference"] < 1e-9
        assert row[key]["edges_left"] == 0
        if row[key]["blocks"] == 0:
            assert row[key]["folded"] == row["edges"]
