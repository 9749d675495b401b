"""Folding by others than convswap: right, or refused in one line that names convswap.fuse."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse as fx_fuse
from torch.fx.proxy import TraceError
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

import convswap
from convswap.errors import SurgeryError, UsageError
from convswap.surgery.host_folds import GuardedFold
from convswap.testing import Case, cases_of
from convswap.testing.aids import lived_in, randomize_batch_norms

CASES = [case for case in cases_of() if not case.block]
RIGHT = {"conv", "circle", "circle_mix", "binary_weight", "dendritic"}
DOUBLE = {"dtype": torch.float64}
HOME = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1}


def normed(unit: nn.Module) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(unit.out_channels).double().eval()
    randomize_batch_norms(norm)
    return norm


def folded_in_place(conv: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    """What a toolbox does that folds every BatchNorm into the convolution before it, without a copy."""
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = torch.zeros_like(norm.running_mean) if conv.bias is None else conv.bias
    conv.weight = nn.Parameter(conv.weight * factor.reshape(-1, 1, 1, 1))
    conv.bias = nn.Parameter((bias - norm.running_mean) * factor + norm.bias)
    return conv


@pytest.mark.parametrize("fold", [fuse_conv_bn_eval, folded_in_place])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_another_folding_is_right_or_refused(case: Case, bias: bool, fold: Any) -> None:
    """torch's left ic 1.9 % and quantized 49 % off, without a word."""
    torch.manual_seed(0)
    geometry = {**case.homes()[0], "bias": bias}
    constant = case.spec.constant_weight
    unit = case.build(geometry, **DOUBLE).eval() if constant else lived_in(case, geometry, torch.float64)
    norm, x = normed(unit), torch.randn(2, unit.in_channels, 9, 8, dtype=torch.float64)
    before = copy.deepcopy(unit)
    with torch.no_grad():
        expected = norm(unit(x))
    if (
        case.spec.name in RIGHT
        or dict(case.options).get("activation_bits") == dict(case.options).get("weight_bits") == 32
    ):
        with torch.no_grad():
            torch.testing.assert_close(fold(unit, norm)(x), expected, rtol=1e-9, atol=1e-9)
        return
    # minimum has fewer filters than output channels
    with pytest.raises(
        (UsageError, RuntimeError), match=r"call convswap\.fuse\(model, example_input\)|must match the size"
    ):
        fold(unit, norm)
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in unit.state_dict().items())


@pytest.mark.parametrize("name", [name for name in convswap.list_units() if convswap.get_unit(name).kind != "block"])
def test_torchs_folding_of_graphs_is_right_or_refused(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    randomize_batch_norms(net)
    net.double().eval()
    x = torch.randn(1, 3, 9, 8, dtype=torch.float64)
    if convswap.get_unit(name).cls.supports(net[2]) is not None:
        return
    swapped = convswap.swap(net, name, where="2", example_input=x).eval()
    try:
        folded = fx_fuse(swapped)
    except (TraceError, TypeError, UsageError):
        return
    with torch.no_grad():
        torch.testing.assert_close(folded(x), swapped(x), rtol=1e-9, atol=1e-9)


def test_other_values_are_nobodys_folding() -> None:
    unit = convswap.get_unit("ic").cls(**HOME)
    for value in (torch.randn_like(unit.weight), unit.weight.detach().clone(), torch.zeros_like(unit.weight)):
        unit.weight = nn.Parameter(value)
        assert torch.equal(unit.weight, value)
    unit.bias = nn.Parameter(torch.ones(6))
    point = convswap.get_unit("ic").cls(4, 4, 1, groups=4)  # one number a filter: any weight is a multiple
    point.load_state_dict(convswap.get_unit("ic").cls(4, 4, 1, groups=4).state_dict(), assign=True)


def test_parametrizations_come_and_go() -> None:
    unit = parametrizations.weight_norm(convswap.get_unit("ic").cls(**HOME))
    parametrize.remove_parametrizations(unit, "weight")
    assert isinstance(unit.weight, nn.Parameter)


class Merged(nn.Module):
    """A block of a detector: a convolution and its BatchNorm, which `Detector.fuse` merges."""

    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(*channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels[1])

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.nn.functional.silu(self.bn(y) if hasattr(self, "bn") else y)


class Detector(nn.Module):
    """A host that makes plain convolutions of what stands before a BatchNorm, whatever class it has."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Merged(3, 8), Merged(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def fuse(self, verbose: bool = False) -> nn.Module:
        for block in self.body:
            factor = block.bn.weight / (block.bn.running_var + block.bn.eps).sqrt()
            new = nn.Conv2d(block.conv.in_channels, block.conv.out_channels, block.conv.kernel_size, padding=1)
            new.weight.data = block.conv.weight.detach() * factor[:, None, None, None]
            new.bias.data = block.bn.bias - block.bn.running_mean * factor
            block.conv = new
            del block.bn
        return self


def detector() -> Detector:
    torch.manual_seed(0)
    model = Detector()
    randomize_batch_norms(model)
    return model.eval()


@pytest.mark.parametrize("unit", ["circle", "ic", "quantized"])
def test_a_hosts_own_method_is_refused_while_units_are_inside(unit: str) -> None:
    """Such a method read the raw weights before, without a word."""
    x = torch.randn(1, 3, 16, 16)
    swapped = convswap.swap(detector(), unit, where="body.1.conv", example_input=x).eval()
    for model in (swapped, copy.deepcopy(swapped), pickle.loads(pickle.dumps(swapped))):
        assert model.fuse.module is model
        with pytest.raises(SurgeryError, match=rf"Detector\.fuse\(\) folds .* body\.1\.conv is a {unit} unit; call "):
            model.fuse(verbose=True)
        assert hasattr(model.body[0], "bn")
    assert list(swapped.fuse.__signature__.parameters) == ["verbose"]


def test_a_hosts_own_method_works_once_no_unit_is_left() -> None:
    x = torch.randn(1, 3, 16, 16)
    swapped = convswap.swap(detector(), "circle", where="body.1.conv", example_input=x).eval()
    with torch.no_grad():
        expected = swapped(x)
    swapped.body[1].conv = swapped.body[1].conv.fuse()
    assert isinstance(swapped.fuse, GuardedFold)
    assert swapped.fuse() is swapped
    with torch.no_grad():
        torch.testing.assert_close(swapped(x), expected, rtol=1e-4, atol=1e-4)


def test_the_plain_convolution_as_a_unit_needs_no_guard() -> None:
    x = torch.randn(1, 3, 16, 16)
    swapped = convswap.swap(detector(), "conv", where="all", example_input=x).eval()
    with torch.no_grad():
        expected = swapped(x)
        torch.testing.assert_close(swapped.fuse()(x), expected, rtol=1e-4, atol=1e-4)
