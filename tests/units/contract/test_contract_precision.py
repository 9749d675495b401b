"""Autocast and whole-module casts: finite, close to full precision, and nothing lost on the way back."""

from __future__ import annotations

import copy

import pytest
import torch
from contract_cases import Case, difference, each_unit, gradients, image

# About ten roundings of 2**-9 and 2**-12 relative to the largest output.
TOLERANCES = {torch.bfloat16: 0.03, torch.float16: 0.004}


def _tolerance(case: Case, dtype: torch.dtype) -> float:
    """A block rounds once more in every layer."""
    if not case.block:
        return TOLERANCES[dtype]
    return TOLERANCES[dtype] * sum(isinstance(module, torch.nn.Conv2d) for module in case.home().modules())


each_precision = pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)


@each_unit
@each_precision
def test_autocast_forward_and_backward(case: Case, dtype: torch.dtype) -> None:
    for geometry in case.geometries():
        unit = case.build(geometry).train(not case.stochastic)
        x = image(
            unit, batch=8
        )  # of two values a BatchNorm of pooled vectors keeps only the sign, which rounding flips
        expected = unit(x)
        with torch.autocast("cpu", dtype=dtype):
            output = unit(x)
        if not case.block:  # a block may end in a sum with its float32 input
            assert output.dtype == dtype
        assert difference(output, expected) < _tolerance(case, dtype)
        unit.train()
        with torch.autocast("cpu", dtype=dtype):
            output = unit(x)
        output.float().square().mean().backward()
        for name, parameter in unit.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.dtype == torch.float32, name
            assert torch.isfinite(parameter.grad).all(), name


@each_unit
@each_precision
def test_whole_module_cast_computes_and_trains(case: Case, dtype: torch.dtype) -> None:
    unit = case.home().eval()
    x = image(unit)
    expected = unit(x)
    unit.to(dtype)
    output = unit(x.to(dtype))
    assert output.dtype == dtype
    assert difference(output, expected) < 2 * _tolerance(case, dtype)
    for name, gradient in gradients(unit, lambda: unit(x.to(dtype))).items():
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name


@each_unit
def test_double_and_back_is_lossless(case: Case) -> None:
    unit = case.home().eval()
    x = image(unit)
    expected = unit(x)
    unit.double()
    assert difference(unit(x.double()), expected) < 1e-5
    unit.float()
    assert torch.equal(unit(x), expected)


@each_unit
@pytest.mark.parametrize("through", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_constants_survive_a_detour_through_low_precision(case: Case, through: torch.dtype) -> None:
    """What is no parameter must come back exact, whatever precision the module visited."""
    unit = case.home(dtype=torch.float64).eval()
    x = image(unit)
    expected, state = unit(x), copy.deepcopy(unit.state_dict())
    unit.to(through).double()
    unit.load_state_dict(state)
    assert difference(unit(x), expected) < 1e-14
