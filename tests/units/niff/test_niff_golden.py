"""The frequency filter against the tensors and parameter counts of the authors' code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from convswap.units.niff.niff import NIFFConv2d
from convswap.units.niff.spatial import load_official_niff

Golden = Callable[[str], dict[str, Any]]
DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def official(case: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in case["state_dict"].items() if key.startswith(prefix)}


@pytest.mark.parametrize(
    ("name", "geometry", "options"),
    [
        ("case_dw_small_odd", {"in_channels": 5, "out_channels": 5, "groups": 5}, {}),
        ("case_dw_big", {"in_channels": 4, "out_channels": 4, "groups": 4}, {"mlp": "big"}),
        ("case_splitconv", {"in_channels": 5, "out_channels": 4}, {}),
        ("case_splitconv", {"in_channels": 5, "out_channels": 4}, {"imag_bias": True}),
        ("case_full", {"in_channels": 3, "out_channels": 4}, {"form": "full"}),
    ],
    ids=str,
)
def test_golden_convolutions(golden: Golden, name: str, geometry: dict[str, Any], options: dict[str, Any]) -> None:
    case = golden("niff")[name]
    unit = NIFFConv2d(**geometry, kernel_size=3, padding=1, **options, **DOUBLE).eval()
    load_official_niff(unit, case["state_dict"])
    x = case["input"]
    assert (unit(x) - case["output"]).abs().max() < 1e-12
    kernels = unit.effective_kernel(tuple(x.shape[-2:]))
    expected = case["equivalent_kernel"]
    assert (kernels - (expected if expected.dim() == 4 else expected[:, None])).abs().max() < 1e-12


def norm_of(case: dict[str, Any], prefix: str, channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, **DOUBLE)
    norm.load_state_dict(official(case, prefix))
    return norm.eval()


def pointwise_of(case: dict[str, Any], key: str) -> nn.Conv2d:
    """A 1x1 convolution in the frequency domain is the plain one."""
    weight = case["state_dict"][key]
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False, **DOUBLE)
    conv.load_state_dict({"weight": weight[:, :, None, None]})
    return conv


def test_golden_bottleneck(golden: Golden) -> None:
    case = golden("niff")["case_block_resnet_bottleneck_split"]
    unit = NIFFConv2d(4, 4, 3, padding=1, bias=False, **DOUBLE)
    load_official_niff(unit, official(case, "conv2."))
    body = nn.Sequential(
        *(pointwise_of(case, "conv1.mlp.weight"), norm_of(case, "bn1.", 4), nn.ReLU()),
        *(unit, norm_of(case, "bn2.", 4), nn.ReLU()),
        *(pointwise_of(case, "conv3.mlp.weight"), norm_of(case, "bn3.", 16)),
    )
    y = torch.relu(body(case["input"]) + case["input"])
    assert (y - case["output"]).abs().max() < 1e-11


def test_golden_inverted_residual(golden: Golden) -> None:
    case = golden("niff")["case_block_mbv2_s1"]
    unit = NIFFConv2d(36, 36, 3, padding=1, groups=36, bias=False, **DOUBLE)
    load_official_niff(unit, official(case, "conv.1.0."))
    body = nn.Sequential(
        *(pointwise_of(case, "conv.0.0.mlp.weight"), norm_of(case, "conv.0.1.", 36), nn.ReLU6()),
        *(unit, norm_of(case, "conv.1.1.", 36), nn.ReLU6()),
        *(pointwise_of(case, "conv.2.mlp.weight"), norm_of(case, "conv.3.", 6)),
    )
    assert (body(case["input"]) + case["input"] - case["output"]).abs().max() < 1e-11


def test_golden_convnext_block(golden: Golden) -> None:
    case = golden("niff")["case_block_convnext"]
    block = ConvNeXtBlock(8, 8, kernel_size=7, ls_init_value=1.0).double().eval()
    block.conv_dw = NIFFConv2d.fresh_like(block.conv_dw, mlp="big")  # the official one has no biases at all
    load_official_niff(block.conv_dw, official(case, "dwconv."))
    with torch.no_grad():
        for name, key in (("fc1", "pwconv1"), ("fc2", "pwconv2")):
            linear = getattr(block.mlp, name)
            linear.weight.copy_(case["state_dict"][f"{key}.mlp.weight"])
            linear.bias.zero_()
        block.norm.load_state_dict(official(case, "norm."))
        block.gamma.copy_(case["state_dict"]["gamma"])
    assert (block(case["input"]) - case["output"]).abs().max() < 1e-11


def test_official_weights_of_another_shape_are_refused(golden: Golden) -> None:
    state = golden("niff")["case_splitconv"]["state_dict"]
    with pytest.raises(ValueError, match="where the unit has"):
        load_official_niff(NIFFConv2d(6, 4, 3, padding=1), state)
    with pytest.raises(ValueError, match=r"has no 'mlp_imag\.layer_mpl1\.weight'"):
        load_official_niff(NIFFConv2d(5, 4, 3, padding=1), {k: v for k, v in state.items() if "imag" not in k})
    unit = NIFFConv2d(5, 4, 3, padding=1)
    load_official_niff(unit, state, bias=torch.arange(4.0))
    assert torch.equal(unit.bias, torch.arange(4.0))


def test_parameter_counts_are_the_papers() -> None:
    def count(**options: Any) -> int:
        return sum(p.numel() for p in NIFFConv2d(bias=False, kernel_size=3, padding=1, **options).parameters())

    official: dict[str, Any] = {"imag_bias": True}
    wide = {"in_channels": 64, "out_channels": 64, "groups": 64}
    assert count(**wide, **official) == 120 + 10 * 64
    assert count(**wide) == 120 + 9 * 64
    assert count(**wide, **official, mlp="big") == 12_704 + 66 * 64
    assert count(in_channels=64, out_channels=32, **official) == 120 + 10 * 64 + 64 * 32
    assert count(in_channels=6, out_channels=4, form="full", **official) == 48 + 18 * 24
