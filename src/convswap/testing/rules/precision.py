"""Autocast and whole-module casts: finite, close to full precision, and nothing lost on the way back."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch

from ..aids import demand_close, gradients, image
from ..case import Case
from ..rule import demand, rule

# About ten roundings of 2**-9 and 2**-12 relative to the largest output.
_TOLERANCES = {torch.bfloat16: 0.03, torch.float16: 0.004}


def _tolerance(case: Case, dtype: torch.dtype) -> float:
    """A block rounds once more in every layer."""
    if not case.block:
        return _TOLERANCES[dtype]
    return _TOLERANCES[dtype] * sum(isinstance(module, torch.nn.Conv2d) for module in case.home().modules())


def _demand_gradient(name: str, gradient: Any, dtype: torch.dtype | None = None) -> None:
    demand(gradient is not None, f"{name} got no gradient")
    demand(dtype is None or gradient.dtype == dtype, f"the gradient of {name} has dtype {gradient.dtype}")
    demand(bool(torch.isfinite(gradient).all()), f"the gradient of {name} is not finite")


@rule()
def autocast_stays_close_and_trains(case: Case) -> None:
    """Under autocast the unit must stay close to float32, and its gradients must be finite and float32."""
    for dtype in _TOLERANCES:
        for geometry in case.geometries():
            unit = case.build(geometry).train(not case.stochastic)
            x = image(unit, batch=8)  # with 2 values a BatchNorm of pooled vectors is a sign, which rounding flips
            expected = unit(x)
            with torch.autocast("cpu", dtype=dtype):
                output = unit(x)
            if not case.block:  # a block may end in a sum with its float32 input
                demand(output.dtype == dtype, f"output of {output.dtype} under autocast({dtype})")
            demand_close(output, expected, _tolerance(case, dtype), f"the output under autocast({dtype})")
            unit.train()
            with torch.autocast("cpu", dtype=dtype):
                output = unit(x)
            output.float().square().mean().backward()
            for name, parameter in unit.named_parameters():
                _demand_gradient(name, parameter.grad, torch.float32)


@rule()
def cast_as_a_whole_computes_and_trains(case: Case) -> None:
    """Cast to bfloat16 or float16 the unit must compute in that dtype, close to float32, with finite gradients."""
    for dtype in _TOLERANCES:
        torch.manual_seed(0)
        unit = case.home().eval()
        x = image(unit)
        expected = unit(x)
        unit.to(dtype)
        low = x.to(dtype)
        output = unit(low)
        demand(output.dtype == dtype, f"output of {output.dtype} from a unit cast to {dtype}")
        demand_close(output, expected, 2 * _tolerance(case, dtype), f"the output in {dtype}")
        for name, gradient in gradients(unit, partial(unit, low)).items():
            _demand_gradient(name, gradient)


@rule()
def double_and_back_is_lossless(case: Case) -> None:
    """`.double().float()` must leave the function as it was to the last bit."""
    unit = case.home().eval()
    x = image(unit)
    expected = unit(x)
    unit.double()
    demand_close(unit(x.double()), expected, 1e-5, "the output in float64")
    unit.float()
    demand(torch.equal(unit(x), expected), "the output after .double().float() differs")


@rule()
def constants_survive_low_precision(case: Case) -> None:
    """Tensors other than parameters must come back exact from a visit to low precision; see `constants()`."""
    for through in (torch.float16, torch.bfloat16, torch.float32):
        unit = case.home(dtype=torch.float64).eval()
        x = image(unit)
        expected, state = unit(x), copy.deepcopy(unit.state_dict())
        unit.to(through).double()
        unit.load_state_dict(state)
        demand_close(unit(x), expected, 1e-14, f"the output after a visit to {through}")
