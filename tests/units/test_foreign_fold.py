"""A BatchNorm that a host's own code folds into a unit: right, or refused (torch, mmengine and ultralytics do it)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

import convswap
from convswap.errors import SurgeryError
from convswap.units import get_unit, list_units

UNITS = [name for name in list_units() if get_unit(name).replaces == "convolution"]
SILENT = ("ic", "quantized", "quantized_stochastic")  # folded silently before: 1.9e-2, 4.9e-1 and 4.9e-1 off


def assigned(conv: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    """In place, weight and bias assigned: as mmengine and ultralytics do."""
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return conv


def registered(conv: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    """The weight's data scaled, the bias registered: as earlier ultralytics did."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    conv.weight.data = conv.weight.data * scale.detach()[:, None, None, None]
    conv.register_parameter("bias", nn.Parameter((norm.bias - norm.running_mean * scale).detach()))
    return conv


def pair(name: str, bias: bool) -> tuple[nn.Module, nn.BatchNorm2d, Tensor]:
    """A trained unit, a BatchNorm with statistics, and an input, in float64."""
    torch.manual_seed(0)
    groups = 8 if name == "fixed" else 1
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=bias).double()
    unit = get_unit(name).cls.from_conv(conv).eval()
    with torch.no_grad():
        for parameter in unit.parameters():
            if parameter.abs().max() == 0:
                parameter.fill_(0.3)  # the gates of ic start closed
    norm = nn.BatchNorm2d(8).double().eval()
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return unit, norm, torch.randn(2, 8, 9, 9).double()


@pytest.mark.parametrize("fold", [fuse_conv_bn_eval, assigned, registered])
@pytest.mark.parametrize("name", UNITS)
@torch.no_grad()
def test_a_fold_by_others_is_right_or_refused(name: str, fold: Callable[..., nn.Module]) -> None:
    unit, norm, x = pair(name, bias=False)
    expected = norm(unit(x))
    try:
        folded = fold(copy.deepcopy(unit), norm)
    except (RuntimeError, AttributeError):  # a SurgeryError, or torch itself about another shape or no weight
        return
    torch.testing.assert_close(folded(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", SILENT)
def test_a_wrong_fold_is_refused_in_one_line(name: str, bias: bool) -> None:
    unit, norm, _ = pair(name, bias)
    for fold in (fuse_conv_bn_eval, assigned):
        with pytest.raises(SurgeryError, match=rf"folds a BatchNorm .* {type(unit).__name__}.* convswap\.fuse") as info:
            fold(unit, norm)
        assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ["circle", "circle_mix", "binary_weight"])
def test_a_fold_that_the_weight_follows_is_left_alone(name: str) -> None:
    unit, norm, x = pair(name, bias=False)
    expected = norm(unit(x))
    torch.testing.assert_close(fuse_conv_bn_eval(unit, norm)(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SILENT)
def test_other_weights_may_still_be_assigned(name: str) -> None:
    unit, _, x = pair(name, bias=True)
    other, _, _ = pair(name, bias=True)
    with torch.no_grad():
        other.weight.add_(torch.randn_like(other.weight))
    unit.load_state_dict(other.state_dict(), assign=True)
    torch.testing.assert_close(unit(x), other(x), rtol=0, atol=0)
    unit.weight = nn.Parameter(torch.randn_like(unit.weight))
    unit.weight = nn.Parameter(unit.weight.detach().clone())  # the same values: nothing is scaled
    unit.bias = nn.Parameter(torch.randn(8).double())
    again = pickle.loads(pickle.dumps(copy.deepcopy(unit)))
    torch.testing.assert_close(again(x), unit(x), rtol=0, atol=0)


def test_convswap_folds_as_before() -> None:
    unit, norm, x = pair("ic", bias=False)
    net = nn.Sequential(unit, norm).eval()
    plan = convswap.plan_fuse(net, x)
    assert plan.count("fold") == 1
    torch.testing.assert_close(plan.apply()(x), net(x), rtol=1e-9, atol=1e-9)
