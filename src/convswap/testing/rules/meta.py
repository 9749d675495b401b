"""Modules made on the meta device: no memory, known shapes, and three ways to get values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ..aids import image, lived_in, train_steps
from ..case import Case
from ..rule import CONVOLUTIONS, demand, rule


def _born_on_meta(case: Case) -> list[Any]:
    with torch.device("meta"):
        in_context = case.home()
    return [case.home(device="meta"), in_context, case.home().to("meta")]


def _demand_same(other: nn.Module, unit: nn.Module, what: str) -> None:
    x = image(unit)
    demand(torch.equal(other(x), unit(x)), f"{what} gives another function")


@rule()
def meta_device_knows_its_shapes(case: Case) -> None:
    """On the meta device the unit must hold no memory and give the output's shape."""
    for unit in _born_on_meta(case):
        demand(all(t.is_meta for t in (*unit.parameters(), *unit.buffers())), "tensors off the meta device")
        expected = case.home()(torch.zeros(2, unit.in_channels, 7, 6)).shape
        shape = unit(torch.empty(2, unit.in_channels, 7, 6, device="meta")).shape
        demand(shape == expected, f"shape {tuple(shape)} on meta, {tuple(expected)} for real")


@rule()
def meta_then_to_empty_then_load(case: Case) -> None:
    """A unit born on meta must be whole after `to_empty` and `load_state_dict`."""
    unit = lived_in(case)
    for other in _born_on_meta(case):
        other.to_empty(device="cpu").load_state_dict(unit.state_dict())
        _demand_same(other.eval(), unit, "to_empty and load_state_dict")


@rule()
def meta_then_load_by_assignment(case: Case) -> None:
    """A unit born on meta must be whole and trainable after `load_state_dict(assign=True)`."""
    unit = lived_in(case)
    for other in _born_on_meta(case):
        other.load_state_dict(copy.deepcopy(unit.state_dict()), assign=True)
        left = [name for name, t in (*other.named_parameters(), *other.named_buffers()) if t.is_meta]
        demand(not left, f"still on the meta device: {left}")
        _demand_same(other.eval(), unit, "load_state_dict(assign=True)")
        train_steps(other, steps=1)


@rule(CONVOLUTIONS)
def meta_convolution_gives_a_meta_unit(case: Case) -> None:
    """`from_conv` and `fresh_like` of a convolution on meta must give a unit on meta."""
    conv = nn.Conv2d(**case.homes()[0], device="meta")
    for start in ("from_conv", "fresh_like"):
        unit = getattr(case.cls, start)(conv, **case.options)
        demand(all(p.is_meta for p in unit.parameters()), f"{start} leaves the meta device")
