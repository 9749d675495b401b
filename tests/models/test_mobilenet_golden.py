"""MobileNetV2 and V3 as hosts: torchvision's and timm's blocks are the reference's, and keep it with units inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual, SqueezeExcite
from torch import nn
from torchvision.models import mobilenetv2, mobilenetv3

import convswap
from convswap.models import create_model

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
BLOCKS = ["case_v2_block_t1_s1", "case_v2_block_t6_s1_res", "case_v3_block_re_k3", "case_v3_block_hs_se_k5_dil2"]
V3_NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
Case = dict[str, Any]


def torchvision_block(config: Case) -> nn.Module:
    """The block a case was made with, as torchvision builds it."""
    if "V2" in config["kind"]:
        return mobilenetv2.InvertedResidual(config["inp"], config["oup"], config["stride"], config["expand_ratio"])
    settings = mobilenetv3.InvertedResidualConfig(
        config["input_channels"],
        config["kernel"],
        config["expanded_channels"],
        config["out_channels"],
        config["use_se"],
        config["activation"],
        config["stride"],
        config["dilation"],
        1.0,
    )
    return mobilenetv3.InvertedResidual(settings, norm_layer=V3_NORM)


def timm_block(config: Case, state: dict[str, torch.Tensor]) -> nn.Module:
    """The same block as timm builds it; its tensors come in the same order."""
    if "V2" in config["kind"]:
        common = {"stride": config["stride"], "act_layer": nn.ReLU6}
        if config["expand_ratio"] == 1:
            return DepthwiseSeparableConv(config["inp"], config["oup"], **common)
        return InvertedResidual(config["inp"], config["oup"], exp_ratio=config["expand_ratio"], **common)
    gates = [tensor.shape[0] for name, tensor in state.items() if name.endswith("fc1.bias")]
    excite = partial(SqueezeExcite, force_act_layer=nn.ReLU, gate_layer=nn.Hardsigmoid)
    return InvertedResidual(
        config["input_channels"],
        config["out_channels"],
        config["kernel"],
        exp_ratio=config["expanded_channels"] / config["input_channels"],
        dilation=config["dilation"],
        act_layer=nn.Hardswish if config["activation"] == "HS" else nn.ReLU,
        norm_layer=V3_NORM,
        se_layer=partial(excite, rd_channels=gates[0]) if gates else None,
    )


def load_in_order(block: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load tensors by their order; every name must get a tensor of its shape."""
    names = list(block.state_dict())
    assert len(names) == len(state)
    block.load_state_dict(dict(zip(names, state.values(), strict=True)), strict=True)


@pytest.fixture
def block(golden: Callable[[str], dict[str, Case]], request: pytest.FixtureRequest) -> tuple[nn.Module, Case]:
    """torchvision's block in eval mode with the reference's weights, and the case."""
    case = golden("mobilenetv2")[request.param]
    module = torchvision_block(case["config"]).double()
    module.load_state_dict(case["state_dict"], strict=True)
    return module.eval(), case


@pytest.fixture
def network(shared) -> tuple[nn.Module, Case]:
    """torchvision's MobileNetV2 0.25 with the reference's weights, and the case (2 MB: not copied into tests)."""
    case = torch.load(shared / "golden" / "mobilenetv2" / "case_v2_net_w0.25.pt", weights_only=True)
    config = case["config"]
    model = create_model(
        "torchvision:mobilenet_v2", num_classes=config["num_classes"], width_mult=config["width_mult"]
    ).double()
    model.load_state_dict(case["state_dict"], strict=True)
    return model.eval(), case


@pytest.mark.parametrize("block", BLOCKS, indirect=True)
def test_torchvision_block(block: tuple[nn.Module, Case]) -> None:
    module, case = block
    with torch.no_grad():
        torch.testing.assert_close(module(case["input"]), case["output"], **CLOSE)


@pytest.mark.parametrize("name", BLOCKS)
def test_timm_block(golden: Callable[[str], dict[str, Case]], name: str) -> None:
    case = golden("mobilenetv2")[name]
    module = timm_block(case["config"], case["state_dict"]).double().eval()
    load_in_order(module, case["state_dict"])
    with torch.no_grad():
        torch.testing.assert_close(module(case["input"]), case["output"], **CLOSE)


def test_network(network: tuple[nn.Module, Case]) -> None:
    model, case = network
    with torch.no_grad():
        torch.testing.assert_close(model(case["input"]), case["output"], **CLOSE)


def swap_and_fuse(model: nn.Module, case: Case, unit: str, where: str, places: int) -> nn.Module:
    """Put a unit into the host, check that the function stays, and return the fused host, checked too."""
    plan = convswap.plan_swap(model, unit, where=where, example_input=case["input"])
    assert len(plan.replacements) == places
    assert {replacement.start for replacement in plan.replacements} == {"exact"}
    swapped = plan.apply()
    fused = convswap.fuse(swapped, case["input"])
    with torch.no_grad():
        torch.testing.assert_close(swapped(case["input"]), case["output"], **CLOSE)
        torch.testing.assert_close(fused(case["input"]), case["output"], **CLOSE)
    return fused


def batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("unit", ["circle", "ic"])
@pytest.mark.parametrize("block", BLOCKS, indirect=True)
def test_units_in_the_depthwise_layer_keep_the_function(block: tuple[nn.Module, Case], unit: str) -> None:
    module, case = block
    fused = swap_and_fuse(module, case, unit, "spatial & depthwise", 1)
    assert batch_norms(fused) == 0


@pytest.mark.parametrize("unit", ["circle", "ic"])
def test_units_in_the_network_keep_the_function(network: tuple[nn.Module, Case], unit: str) -> None:
    model, case = network
    fused = swap_and_fuse(model, case, unit, "spatial & depthwise", 17)
    assert batch_norms(fused) == 0


def test_units_also_in_the_pointwise_layers(network: tuple[nn.Module, Case]) -> None:
    model, case = network
    assert batch_norms(swap_and_fuse(model, case, "ic", "pointwise", 34)) == 0


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("torchvision:mobilenet_v2", {3: 17}),
        ("mobilenetv2_100", {3: 17}),
        ("torchvision:mobilenet_v3_small", {3: 3, 5: 8}),
        ("mobilenetv3_small_100", {3: 3, 5: 8}),
        ("torchvision:mobilenet_v3_large", {3: 9, 5: 6}),
        ("mobilenetv3_large_100", {3: 9, 5: 6}),
    ],
)
def test_the_depthwise_layers_of_the_hosts(name: str, kernels: dict[int, int]) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=1000)
    for size, count in kernels.items():
        plan = convswap.plan_swap(model, "circle", where=f"depthwise & {size}x{size}", start="fresh")
        assert len(plan.replacements) == count
