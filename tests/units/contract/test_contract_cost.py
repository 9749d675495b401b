"""Every unit has a cost, in a forward pass and in a training step, and no operator without a formula."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
from contract_cases import Case, assert_untouched, each_unit, image, snapshot
from torch import nn

from convswap.measure.costs.model import Cost, cost


def _cost(case: Case, module: nn.Module, **options: Any) -> Cost:
    return cost(module, image(module, size=(8, 8)), **options)


@each_unit
def test_every_operator_has_a_cost(case: Case) -> None:
    for geometry in case.geometries():
        unit = case.build(geometry)
        before = snapshot(unit)
        forward = _cost(case, unit, fused=False).counts
        step = _cost(case, unit, mode="training", input_gradient=True).counts
        assert_untouched(unit, before)
        assert forward.macs + forward.fft > 0
        assert (forward.activations > 0) == (forward.macs > 0)
        assert forward.bytes_moved > 0
        assert step.macs > forward.macs  # at least the input's gradient
        assert step.bytes_moved > forward.bytes_moved


@each_unit
def test_the_fused_form_has_a_cost(case: Case) -> None:
    unit = case.home().eval()
    x = image(unit, size=(8, 8))
    before, after = (cost(module, x, fused=False) for module in (unit, unit.fuse()))
    assert after.counts.macs <= before.counts.macs
    if case.spec.fusion == "conv":
        plain = cost(nn.Conv2d(**case.homes()[0]), x, fused=False)
        assert after.counts == plain.counts
        assert after.parameters.bits == plain.parameters.bits


@each_unit
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_shapes_alone_say_the_cost(case: Case, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = case.home()
    without_memory = _cost(case, unit, fused=False, mode=mode)

    def refuse(model: nn.Module) -> nn.Module:
        raise RuntimeError("no meta device here")

    monkeypatch.setattr(sys.modules[cost.__module__], "meta_copy", refuse)
    before = snapshot(copy.deepcopy(unit))
    for_real = _cost(case, unit, fused=False, mode=mode)
    assert_untouched(unit, before)
    assert for_real.counts.macs == without_memory.counts.macs
    assert for_real.counts.activations == without_memory.counts.activations
