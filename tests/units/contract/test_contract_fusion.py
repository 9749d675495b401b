"""`fuse()` gives the declared form, the same function, and touches nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from contract_cases import (
    Case,
    assert_untouched,
    difference,
    each_convolution,
    each_unit,
    flops,
    image,
    randomize_batch_norms,
    snapshot,
    train_steps,
)
from contract_geometry import Drawn, drawn, geometry_settings
from hypothesis import given
from torch import nn

from convswap.units import Geometry

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}


def _lived_in(case: Case, geometry: dict[str, Any], dtype: torch.dtype) -> Any:
    """A unit in eval mode after training steps, with random BatchNorm statistics."""
    unit = case.build(geometry, dtype=dtype)
    train_steps(unit)
    randomize_batch_norms(unit)
    return unit.eval()


@each_unit
@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
def test_fused_is_equal_and_of_the_declared_form(case: Case, dtype: torch.dtype) -> None:
    for geometry in case.geometries():
        unit = _lived_in(case, geometry, dtype)
        before = snapshot(unit)
        fused = unit.fuse()
        assert_untouched(unit, before)
        x = image(unit)
        assert difference(fused(x), unit(x)) < TOLERANCES[dtype]
        if case.spec.fusion == "conv":
            assert type(fused) is nn.Conv2d
            assert flops(fused, x) == flops(nn.Conv2d(**geometry, dtype=dtype), x)
        elif case.spec.fusion == "cheaper":
            assert flops(fused, x) <= flops(unit, x)
        assert {p.dtype for p in fused.parameters()} == {dtype}


@each_convolution
@given(place=drawn(dtypes=(torch.float64,), batches=(2,)))
@geometry_settings
def test_fused_is_equal_in_any_geometry(case: Case, place: Drawn) -> None:
    if case.refuses(place.conv) is not None:
        return
    unit = case.build(Geometry.of(place.conv).arguments(), dtype=torch.float64)
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    randomize_batch_norms(unit)
    unit.eval()
    fused = unit.fuse()
    assert difference(fused(place.x_NCHW), unit(place.x_NCHW)) < 1e-10


@each_unit
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_fused_keeps_mode_and_trainability(case: Case, train: bool) -> None:
    unit = case.home().train(train)
    fused = unit.fuse()
    assert all(module.training == train for module in fused.modules())
    assert all(p.is_leaf for p in fused.parameters())
    if case.spec.fusion == "conv" and not case.spec.constant_weight:  # other inference forms need not be trainable
        assert all(p.requires_grad for p in fused.parameters())
    assert not any(p.requires_grad for p in unit.requires_grad_(False).fuse().parameters())


@each_unit
def test_fused_shares_no_storage(case: Case) -> None:
    unit = case.home().eval()
    fused = unit.fuse()
    ours, theirs = (
        {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers()) if t.numel()}
        for module in (unit, fused)
    )
    assert not ours & theirs
    before = fused(x := image(unit))
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.zero_()
    assert torch.equal(fused(x), before)


@each_unit
def test_deepcopy_then_fuse_leaves_both_usable(case: Case) -> None:
    unit = _lived_in(case, case.homes()[0], torch.float64)
    x = image(unit)
    expected = unit(x)
    twin = copy.deepcopy(unit)
    fused = twin.fuse()
    for module in (unit, twin, fused):
        assert difference(module(x), expected) < 1e-10
    for module in (twin, unit):
        train_steps(module, steps=1)
    assert difference(fused(x), expected) < 1e-10
    assert unit.state_dict().keys() == twin.state_dict().keys()


@each_unit
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_fuses_in_low_precision(case: Case, dtype: torch.dtype) -> None:
    exact = _lived_in(case, case.homes()[0], torch.float64)
    unit = copy.deepcopy(exact).to(dtype)
    fused = unit.fuse()
    assert {p.dtype for p in fused.parameters()} == {dtype}
    x = image(unit)
    assert difference(fused(x), exact(x.double())) < 0.1


@each_unit
def test_flops_are_countable(case: Case) -> None:
    for geometry in case.geometries():
        unit = case.build(geometry).eval()
        assert flops(unit, image(unit, batch=1)) > 0
